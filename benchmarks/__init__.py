"""How fast Nightlabel is: each stage alone, the whole, and its peers, in one run (README.md). Starts servers."""
