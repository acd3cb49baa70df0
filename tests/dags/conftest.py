"""Sets Airflow up before the tests of this folder import it."""

import tests.airflow_home  # noqa: F401 - sets the environment
