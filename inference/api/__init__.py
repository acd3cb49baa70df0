"""The REST API: the nightly job's answer for one caller at a time. An entry point; nothing heavy until it is asked."""
