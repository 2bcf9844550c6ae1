"""Stand-ins for the packages of tracking services, which record their calls.

Their signatures are those of wandb 0.31 and mlflow 3.17, as far as the loggers use them. The
packages themselves are too large for the environment of the tests.
"""

import types


class WandbRun:
    def __init__(self, calls):
        self._calls = calls

    def define_metric(self, name, step_metric=None, *, hidden=None):
        self._calls.append(("define_metric", name, step_metric))

    def log(self, data, step=None, commit=None):
        self._calls.append(("log", data))

    def mark_preempting(self):
        self._calls.append(("mark_preempting",))

    def finish(self, exit_code=None):
        self._calls.append(("finish", exit_code))


def wandb_module(calls):
    """A module `wandb`; `calls` receives the calls of its functions and of its runs."""
    module = types.ModuleType("wandb")

    def init(
        project=None,
        dir=None,
        id=None,
        name=None,
        config=None,
        allow_val_change=None,
        resume=None,
        settings=None,
    ):
        calls.append(("init", {"id": id, "name": name, "config": config, "resume": resume}))
        return WandbRun(calls)

    module.init = init
    module.Settings = lambda *, console, quiet: {}
    module.Image = lambda path: ("image", path)
    return module


class MlflowException(Exception):
    def __init__(self, error_code):
        super().__init__(error_code)
        self.error_code = error_code


def mlflow_modules(store):
    """`mlflow` and its submodules by name, over a dict from run ids to lists of calls."""

    class MlflowClient:
        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name, artifact_location=None, tags=None):
            return "1"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            run_id = f"run{len(store)}"
            store[run_id] = [("create_run", run_name)]
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

        def update_run(self, run_id, status=None, name=None):
            if run_id not in store:
                raise MlflowException("RESOURCE_DOES_NOT_EXIST")
            store[run_id].append(("update_run", status))

        def log_dict(self, run_id, dictionary, artifact_file):
            store[run_id].append(("log_dict", dictionary, artifact_file))

        def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
            store[run_id].append(("log_batch", metrics))

        def log_artifact(self, run_id, local_path, artifact_path=None):
            store[run_id].append(("log_artifact", local_path, artifact_path))

        def set_terminated(self, run_id, status=None, end_time=None):
            store[run_id].append(("set_terminated", status))

    modules = {name: types.ModuleType(name) for name in ("mlflow", "mlflow.entities")}
    modules["mlflow.exceptions"] = types.ModuleType("mlflow.exceptions")
    modules["mlflow"].MlflowClient = MlflowClient
    modules["mlflow.entities"].Metric = lambda key, value, timestamp, step: (key, value, step)
    modules["mlflow.exceptions"].MlflowException = MlflowException
    return modules
