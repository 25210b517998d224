"""The files for containers, Kubernetes and systemd: valid, and with command lines that the program reads."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cogview.cli.app import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "cogview.yaml").read_text("utf-8")))


def unit() -> configparser.ConfigParser:
    """The systemd unit."""
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(DEPLOY / "systemd" / "cogview.service", "utf-8")
    return found


def in_container() -> list[str]:
    """What the image runs."""
    lines = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", (DEPLOY / "Containerfile").read_text("utf-8"), re.M)
    return [word for line in lines for word in json.loads(line)]


def of_kind(kind: str) -> Any:
    [found] = [one for one in MANIFESTS if one["kind"] == kind]
    return found


COMMANDS = {
    "container": in_container(),
    "kubernetes": [
        "cogview",
        *of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"],
    ],
    "systemd": shlex.split(unit()["Service"]["ExecStart"]),
}


@pytest.mark.parametrize("where", COMMANDS)
def test_command_lines_are_read(where: str) -> None:
    program, verb, *options = COMMANDS[where]
    assert Path(program).name == "cogview" and verb == "serve" and "--api-key-file" in options
    command: Any = typer.main.get_command(app)
    serve = command.get_command(None, verb)
    serve.make_context(verb, list(options))  # raises on an option or a value that there is not
    with pytest.raises(Exception, match="No such option"):
        serve.make_context(verb, [*options, "--no-such-option"])


@pytest.mark.parametrize("kind", [one["kind"] for one in MANIFESTS])
def test_manifests_are_valid(kind: str) -> None:
    import kubernetes_validate as checker

    checker.validate(of_kind(kind), "1.33", strict=True)
    wrong = {**of_kind(kind), "spec": {"no-such-field": 1}}
    with pytest.raises(checker.ValidationError):
        checker.validate(wrong, "1.33", strict=True)


def test_manifests_fit_together() -> None:
    pod = of_kind("Deployment")["spec"]["template"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = of_kind(kind)["spec"]
        chosen = spec.get("selector") or spec["podSelector"]
        assert (chosen.get("matchLabels") or chosen).items() <= pod["metadata"]["labels"].items()
    [container] = pod["spec"]["containers"]
    drain = int(container["args"][container["args"].index("--drain") + 1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > 2 * drain
    keys = Path(container["args"][container["args"].index("--api-key-file") + 1])
    assert str(keys.parent) in [one["mountPath"] for one in container["volumeMounts"]]
    assert (
        container["ports"][0]["containerPort"]
        == of_kind("NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"]
    )


def test_the_compose_file_is_valid(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    own = DEPLOY / "compose.yaml"
    good = subprocess.run([*check, str(own)], check=False, capture_output=True, text=True)
    assert good.returncode == 0, good.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(own.read_text("utf-8").replace("restart:", "restarting:"), "utf-8")
    assert subprocess.run([*check, str(wrong)], check=False, capture_output=True).returncode == 1


def test_the_configuration_of_ray_serve_is_valid() -> None:
    missing = "the extra `replicas` is not installed"
    schema = pytest.importorskip("ray.serve.schema", reason=missing, exc_type=ImportError)
    from cogview.serving import replicas

    told = schema.ServeDeploySchema(**yaml.safe_load((DEPLOY / "ray" / "cogview.yaml").read_text("utf-8")))
    [application] = told.applications
    module, _, name = application.import_path.partition(":")
    assert module == replicas.__name__ and hasattr(replicas, name)
    given = replicas.Replicas.model_validate(application.args)
    assert given.replicas > 1 and given.api_key_file is not None  # it listens to other machines


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """By systemd itself where it is installed; what it says of a program that is not there is no fault."""
    found = unit()
    assert found["Service"]["LoadCredential"].partition(":")[0] == "keys"
    assert "%d/keys" in found["Service"]["ExecStart"]
    if analyzer := shutil.which("systemd-analyze"):
        text = (DEPLOY / "systemd" / "cogview.service").read_text("utf-8")
        own = tmp_path / "cogview.service"
        own.write_text(text.replace("/opt/cogview/bin/cogview", sys.executable), "utf-8")
        said = subprocess.run(
            [analyzer, "verify", "--man=no", str(own)], check=False, capture_output=True, text=True
        )
        assert "cogview.service" not in said.stderr, said.stderr


def test_what_the_image_is_built_from_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert ignored[0] == "*"
    for name in ("src", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "recipes"):
        assert f"!{name}" in ignored and (ROOT / name).exists()
