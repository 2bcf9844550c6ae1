"""The files in deploy/, as far as Ray reads them, and the application that they name."""

from pathlib import Path

import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from instantid_jax.cli.ray import build
from instantid_jax.errors import InputError

DEPLOY = Path(__file__).parents[3] / "deploy"


def config() -> dict:
    return yaml.safe_load((DEPLOY / "ray.yaml").read_text())


def test_the_configuration_is_one_of_serve():
    schema = ServeDeploySchema.model_validate(config())
    (application,) = schema.applications
    module, _, name = application.import_path.partition(":")
    assert (module, name) == (build.__module__, build.__name__)
    assert isinstance(build(application.args), Application)


def test_kubernetes_gets_the_same():
    service = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == config()
    cluster = service["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    args = config()["applications"][0]["args"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (
        args["min_replicas"],
        args["max_replicas"],
    )
    # Paths of the arguments are mounted.
    (container,) = workers["template"]["spec"]["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for name in ("sdxl", "instantid", "token_file"):
        assert any(args[name].startswith(mount) for mount in mounts), name


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "Missing from args: --token-file"),
        ({"token_file": "t", "token": 1}, "Unrecognized options: --token"),
        ({"token_file": "t", "host": "0.0.0.0"}, "Unrecognized options: --host"),
        ({"token_file": "t", "rows": "many"}, "Error parsing --rows"),
        ({"token_file": "t", "min_replicas": 3, "max_replicas": 2}, "min_replicas=3"),
        ({"token_file": "t", "sizes": [64, 100]}, "width=100 must be a multiple of 8"),
        ({"token_file": "t", "fast": "lightning-4", "num_inference_steps": 8}, "lightning-4"),
    ],
)
def test_wrong_arguments_are_named(args, words):
    with pytest.raises(InputError) as raised:
        build(args)
    assert words in str(raised.value)


def test_flags_may_be_written_with_either_mark():
    args = {"token-file": "t", "gpus": 0.5, "other_sizes": True, "download_face_pack": False}
    application = build(args)
    deployment = application._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 0.5
    make, token_file = deployment.init_args
    assert make.keywords["batching"].other_sizes and token_file == Path("t")
