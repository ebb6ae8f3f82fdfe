"""An Airflow DAG for the nightly run (Airflow 2.10 and 3).

Exit codes 1 (failed) and 75 (another run holds the workspace) are retried twice, after ten minutes. 2 (wrong
configuration) and 3 (refused by the quality gate) fail the task at once, because a retry would not help. The published
version answers all the time. For an alert, add your `on_failure_callback` to default_args.
"""

from __future__ import annotations

import logging
import subprocess
import tempfile
from datetime import datetime, timedelta

try:
    from airflow.sdk import DAG, task
    from airflow.sdk.exceptions import AirflowFailException
except ImportError:  # Airflow 2
    from airflow.decorators import task
    from airflow.exceptions import AirflowFailException
    from airflow.models.dag import DAG

GIFDEX = "/opt/gifdex/bin/gifdex"
CONFIG = "/etc/gifdex/gifdex.toml"
METRICS = "/var/lib/node_exporter/textfile/gifdex.prom"
NO_RETRY = {2: "the configuration is wrong", 3: "the quality gate refused the version"}

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
        """Run the job with its own Python environment, so that the scheduler needs neither TensorFlow nor Beam."""
        command = [GIFDEX, "nightly", CONFIG, "--json", "--metrics", METRICS]
        with tempfile.TemporaryFile("w+") as summary:
            with subprocess.Popen(command, stdout=summary, stderr=subprocess.PIPE, text=True) as process:
                for line in process.stderr or ():
                    logging.getLogger(__name__).info("%s", line.rstrip())
            if process.returncode in NO_RETRY:
                why = NO_RETRY[process.returncode]
                raise AirflowFailException(f"{why}: see the log above (exit {process.returncode})")
            if process.returncode:
                raise RuntimeError(f"gifdex nightly exited with {process.returncode}: see the log above")
            summary.seek(0)
            return summary.read()

    nightly()
