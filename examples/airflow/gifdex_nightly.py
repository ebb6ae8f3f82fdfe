"""An Airflow DAG for the nightly run (Airflow 2.10 and 3).

On failure: exit code 1 (failed) and 75 (another run holds the workspace) are tried again twice, after ten minutes;
2 (wrong configuration) and 3 (refused by the quality gate) fail the task at once, for trying again changes nothing.
The published version answers all the while. `on_failure_callback` is the place for an alert.
"""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from airflow.exceptions import AirflowFailException

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow.decorators import task
    from airflow.models.dag import DAG

GIFDEX = "/opt/gifdex/bin/gifdex"
CONFIG = "/etc/gifdex/gifdex.toml"
NOT_AGAIN = {2: "the configuration is wrong", 3: "the quality gate refused the version"}

with DAG(
    "gifdex_nightly",
    description="Bring the GIF index up to date, check it and publish it",
    schedule="17 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10), "execution_timeout": timedelta(hours=8)},
    tags=["gifdex"],
) as dag:

    @task
    def nightly() -> str:
        """Run the job in an environment of its own: TensorFlow and Beam are not the scheduler's."""
        done = subprocess.run([GIFDEX, "nightly", CONFIG, "--json"], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode in NOT_AGAIN:
            raise AirflowFailException(f"{NOT_AGAIN[done.returncode]}: see the log above (exit {done.returncode})")
        if done.returncode:
            raise RuntimeError(f"gifdex nightly exited with {done.returncode}: see the log above")
        return done.stdout

    nightly()
