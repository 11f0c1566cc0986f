"""Do the files of cluster_configs hold, as far as they can be checked without a cluster?

Ray's launcher files pass what `ray up` does to them before it talks to anybody: defaults filled in,
then Ray's own schema. KubeRay's file has no field that KubeRay does not know.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from orchestrator.cli import app

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "cluster_configs"
LAUNCHERS = sorted(
    name.stem for name in CONFIGS.glob("*.yaml") if not name.stem.startswith(("fleet-", "kuberay-"))
)
KUBERNETES = sorted(name.stem for name in CONFIGS.glob("kuberay-*.yaml"))
FLEETS = sorted(name.stem for name in CONFIGS.glob("fleet-*.yaml"))
PAGES = [ROOT / "docs" / "cluster.md", *sorted((ROOT / "docs" / "clusters").glob("*.md"))]
TOKEN = "~/.ray/auth_token"  # noqa: S105  # where it lies, not what it is
FIELDS = Path(__file__).with_name("kuberay") / "fields.yaml"


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def text_of(name: str) -> str:
    return (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Return what `ray up` makes of a file, checked against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole: dict[str, Any] = prepare_config(deepcopy(config))
    validate_config(whole)
    return whole


def started(config: dict[str, Any]) -> Iterator[str]:
    """Yield the commands of a file that start a Ray."""
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        yield from (command for command in config[part] if "ray start" in command)


def test_there_are_files_to_check() -> None:
    """The folders are not empty, so that the tests below mean something."""
    assert LAUNCHERS == ["aws", "gcp", "local", "on-premises"]
    assert KUBERNETES == ["kuberay-look", "kuberay-output", "kuberay-rayjob"]
    assert {"fleet-hospitals", "fleet-phones", "fleet-vehicles"} < set(FLEETS)


# ------------------------------------------------------------------ Ray's launcher


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_takes_the_file(name: str) -> None:
    """It passes Ray's checks, and a run finds its workers when it begins."""
    config = prepared(load(CONFIGS / f"{name}.yaml"))
    types = config["available_node_types"].values()
    assert sum(node["min_workers"] for node in types) == config["max_workers"]


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("place", [(), ("auth",)])
def test_a_mistyped_field_is_found(name: str, place: tuple[str, ...]) -> None:
    """Ray's schema refuses what it does not know."""
    config = load(CONFIGS / f"{name}.yaml")
    part = config
    for key in place:
        part = part[key]
    part["setup_comands"] = []
    with pytest.raises(Exception, match="setup_comands"):
        prepared(config)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_token_is_asked_for(name: str) -> None:
    """Every Ray starts with authentication, and the token comes from the user's own file."""
    config = load(CONFIGS / f"{name}.yaml")
    commands = list(started(config))
    assert commands
    assert all("export RAY_AUTH_MODE=token;" in command for command in commands)
    here = config["file_mounts"][TOKEN]
    assert here == TOKEN


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_start_knows_its_options(name: str) -> None:
    """What follows `ray start` is parsed by Ray's own command; nothing is started."""
    from ray.scripts.scripts import start

    for command in started(load(CONFIGS / f"{name}.yaml")):
        words = shlex.split(command.partition("ray start ")[2])
        with start.make_context("start", list(words)) as context:
            assert context.params["head"] == ("--head" in words)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_dashboard_stays_inside(name: str) -> None:
    """The head's dashboard listens on loopback; the head is the one with --head."""
    head, *others = started(load(CONFIGS / f"{name}.yaml"))
    assert "--head " in head
    assert "--dashboard-host=127.0.0.1" in head
    assert not any("dashboard" in command or "--head" in command for command in others)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_is_copied_can_be_installed(name: str) -> None:
    """The mounts exist, hold all that pyproject.toml names, and nothing that stays at home."""
    mounts = dict(load(CONFIGS / f"{name}.yaml")["file_mounts"])
    del mounts[TOKEN]
    assert {remote: f"~/latecomer/{local}" for remote, local in mounts.items()} == {
        remote: remote for remote in mounts
    }
    assert all((ROOT / local).exists() for local in mounts.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    needed = {package.partition(".")[0] for package in setuptools["packages"]}
    needed |= {f"{module}.py" for module in setuptools["py-modules"]}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    assert needed | {"pyproject.toml", "constraints.txt", "cluster_configs"} <= set(mounts.values())
    home = {".", "./", ".git", ".venv", "runs", "mlruns", "mlartifacts", "mlflow.db", "tests"}
    assert not home & set(mounts.values())


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_node_is_set_up_from_what_is_copied(name: str) -> None:
    """The last common command is the project's own script, which is among what is copied."""
    config = load(CONFIGS / f"{name}.yaml")
    *_, last = config["setup_commands"]
    assert last.split()[-2:] == ["bash", "~/latecomer/cluster_configs/setup.sh"]
    for command in started(config):
        assert "~/.latecomer/env/bin/ray start" in command


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_end_what_is_not_used(name: str) -> None:
    """Workers are spot machines of the head's type, no disk is left, and idle ones are let go."""
    config = load(CONFIGS / f"{name}.yaml")
    head, worker = (
        config["available_node_types"][key]["node_config"] for key in ("head", "worker")
    )
    assert {key: worker[key] for key in head} == head
    assert worker.keys() - head.keys() <= {"InstanceMarketOptions", "scheduling"}
    assert config["idle_timeout_minutes"] <= 15
    disk = head["BlockDeviceMappings"][0]["Ebs"] if name == "aws" else head["disks"][0]
    assert disk["DeleteOnTermination" if name == "aws" else "autoDelete"] is True
    assert config["provider"].get("cache_stopped_nodes", False) is False


# ------------------------------------------------------------------ what every node runs first


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return a home with a token, whose Python takes down what pip is asked for."""
    home = tmp_path / "home"
    binaries = home / ".latecomer" / "env" / "bin"
    binaries.mkdir(parents=True)
    python = binaries / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {home}/pip.log\n', encoding="utf-8")
    python.chmod(0o755)
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0", encoding="utf-8")
    return home


def set_up(home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(CONFIGS / "setup.sh")],
        capture_output=True, text=True, check=False, timeout=60,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "LATECOMER_PYTHON": sys.executable, **env},
    )  # fmt: skip


def test_setting_up_twice_is_setting_up(node: Path) -> None:
    """It installs the pinned project, closes the token, and writes one line into ~/.bashrc."""
    (node / ".bashrc").write_text("# theirs\n", encoding="utf-8")
    for _ in range(2):
        done = set_up(node)
        assert done.returncode == 0, done.stderr
    (pip, again) = (node / "pip.log").read_text(encoding="utf-8").splitlines()
    assert pip == again
    assert pip.startswith("-m pip install ")
    assert pip.endswith(f"-c {ROOT}/constraints.txt {ROOT}")
    assert (node / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    theirs, ours = (node / ".bashrc").read_text(encoding="utf-8").splitlines()
    assert (theirs, "env.sh" in ours) == ("# theirs", True)
    told = subprocess.run(
        ["bash", "-c", 'source ~/.bashrc; echo "$RAY_AUTH_MODE" "$PATH"'],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(node), "PATH": "/usr/bin:/bin"},
    ).stdout
    assert told.startswith(f"token {node}/.latecomer/env/bin:")


def test_torch_for_cpus_comes_first(node: Path) -> None:
    """A given index has torch alone; the project then finds it installed."""
    assert set_up(node, LATECOMER_TORCH_INDEX="https://torch.example/cpu").returncode == 0
    first, second = (node / "pip.log").read_text(encoding="utf-8").splitlines()
    assert first.endswith("--index-url https://torch.example/cpu torch")
    assert "--index-url" not in second


def test_a_node_without_a_token_is_refused(node: Path) -> None:
    """Nothing is installed, and the message says how a token is made."""
    (node / ".ray" / "auth_token").unlink()
    done = set_up(node)
    assert done.returncode == 1
    assert "ray get-auth-token --generate" in done.stderr
    assert not (node / "pip.log").exists()


# ------------------------------------------------------------------ KubeRay


def unknown(value: Any, kind: str, fields: dict[str, Any], at: str = "") -> Iterator[str]:
    """Yield the places of fields that their type does not have."""
    known = fields[kind]
    for name, part in value.items():
        here = f"{at}.{name}".lstrip(".")
        if name not in known:
            yield here
        elif isinstance(known[name], list):
            for number, entry in enumerate(part):
                yield from unknown(entry, known[name][0], fields, f"{here}[{number}]")
        elif known[name] is not None:
            yield from unknown(part, known[name], fields, here)


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_knows_every_field(name: str) -> None:
    """No field is mistyped."""
    config = load(CONFIGS / f"{name}.yaml")
    assert list(unknown(config, config["kind"], load(FIELDS))) == []


@pytest.mark.parametrize(
    "place",
    [
        "spec",
        "spec.rayClusterSpec",
        "spec.rayClusterSpec.authOptions",
        "spec.rayClusterSpec.headGroupSpec.template.spec",
        "spec.rayClusterSpec.workerGroupSpecs.0",
        "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0",
    ],
)
def test_a_mistyped_field_of_kuberay_is_found(place: str) -> None:
    """A wrong name is told with its place, deep inside too."""
    config = load(CONFIGS / "kuberay-rayjob.yaml")
    part = config
    for key in place.split("."):
        part = part[int(key) if key.isdigit() else key]
    part["shutDown"] = True
    (found,) = unknown(config, config["kind"], load(FIELDS))
    assert found == re.sub(r"\.(\d+)", r"[\1]", place) + ".shutDown"


def pods() -> Iterator[dict[str, Any]]:
    """Yield the pods that our files ask for."""
    cluster = load(CONFIGS / "kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]
    yield load(CONFIGS / "kuberay-look.yaml")["spec"]


def test_results_outlive_the_job() -> None:
    """The cluster goes with the job; output and MLflow's file are on a volume of its own file."""
    spec = load(CONFIGS / "kuberay-rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    claim = load(CONFIGS / "kuberay-output.yaml")["metadata"]["name"]
    head, *workers, look = pods()
    for pod in (head, look):
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert (mount["name"], mount["mountPath"]) == (volume["name"], "/output")
    assert all("volumes" not in pod for pod in workers)
    (mlflow,) = [v["value"] for v in head["containers"][0]["env"]]
    assert mlflow.startswith("sqlite:////output/")
    assert mlflow in look["containers"][0]["command"]


def test_the_job_calls_our_command() -> None:
    """The entrypoint parses, its file is in the image, and it writes to the volume."""
    entrypoint = load(CONFIGS / "kuberay-rayjob.yaml")["spec"]["entrypoint"]
    python, dash_m, package, subcommand, file, *options = shlex.split(entrypoint)
    assert (python, dash_m, package, subcommand) == ("python", "-m", "orchestrator", "run")
    assert (ROOT / file.removeprefix("/opt/latecomer/")).exists()
    parsed = parse([subcommand, file, *options])
    assert str(parsed["out"]).startswith("/output/")


def test_pods_have_no_rights() -> None:
    """None is root, none gets more rights or an account's token, and one image serves all."""
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["memory"]
    assert len({pod["containers"][0]["image"] for pod in pods()}) == 1


def test_kubernetes_asks_for_the_token() -> None:
    """The token comes from a secret, and the service stays inside of the cluster."""
    cluster = load(CONFIGS / "kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    secret = cluster["authOptions"]["secretName"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": secret}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for text in (text_of("kuberay-rayjob"), (PAGES[0].parent / "clusters/kuberay.md").read_text()):
        assert (
            f'create secret generic {secret} --from-file=auth_token="$HOME/.ray/auth_token"' in text
        )


def test_versions_agree() -> None:
    """KubeRay is told the Ray of constraints.txt, and the image has the project's version."""
    cluster = load(CONFIGS / "kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']}\n" in constraints
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pod, *_) = pods()
    assert pod["containers"][0]["image"].endswith(f"latecomer:{project['version']}")


def test_the_image_is_built_from_what_is_there() -> None:
    """What the Dockerfile copies exists and is sent to it; it installs pinned and is not root."""
    lines = (CONFIGS / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    ignore = (CONFIGS / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c /src/constraints.txt" in line for line in installs)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["1000"]


# ------------------------------------------------------------------ what must not be in a file


@pytest.mark.parametrize(
    "path", sorted([*CONFIGS.iterdir(), *PAGES]), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_no_secret_stands_in_a_file(path: Path) -> None:
    """No key, no password, no token: only where they come from."""
    text = path.read_text(encoding="utf-8")
    looks = (
        r"-----BEGIN",  # a private key
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
        r"\bAIza[\w-]{30,}",  # Google
        r"\b[0-9a-f]{32,}\b",  # what makes tokens by hexadecimal
        r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",  # what Ray's own token may look like
        r"(?i)RAY_AUTH_TOKEN\s*[:=]",  # the token itself in the environment
        r"(?i)(?:password|passwd|secret_?key|access_?key)\s*[:=]\s*\S",
        r"://[^/\s]+:[^/\s]+@",  # user:password@
    )
    assert [look for look in looks if re.search(look, text)] == []


# ------------------------------------------------------------------ fleets


@pytest.mark.parametrize("command", ["validate", "fleet"])
@pytest.mark.parametrize("name", FLEETS)
def test_fleets_can_be_used(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment with every profile of the file is valid, and its fleet can be looked at."""
    monkeypatch.chdir(ROOT)
    profiles = list(load(CONFIGS / f"{name}.yaml"))
    file = tmp_path / "first.yaml"
    file.write_text(
        f"name: first\ndata: {{source: digits}}\nmodel: {{kind: logistic}}\nfleet:\n"
        f"  clients: {2 * len(profiles)}\n  profile_files: [cluster_configs/{name}.yaml]\n"
        f"  mix: [{', '.join(f'{{profile: {profile}}}' for profile in profiles)}]\n"
        f"method: {{aggregation: {{kind: fedbuff, size: 2}}}}\nstop: {{versions: 2}}\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, [command, str(file), *(["--json"] * (command == "fleet"))])
    assert result.exit_code == 0, result.output
    assert all(profile in result.output for profile in profiles)


@pytest.mark.parametrize("name", [name for name in FLEETS if "\n#   fleet:\n" in text_of(name)])
def test_the_mix_in_a_comment_is_valid(name: str, tmp_path: Path) -> None:
    """What a fleet's comment shows as `fleet:` passes the checks of an experiment."""
    comment = [line[1:] for line in text_of(name).splitlines() if line.startswith("#")]
    shown = "\n".join(comment).partition("\n   fleet:\n")[2]
    lines = [line for line in shown.splitlines() if line.startswith("     ")]
    file = tmp_path / "first.yaml"
    body = "\n".join(line[3:] for line in lines)
    path = CONFIGS / f"{name}.yaml"
    clients = sum(1 for line in lines if "- {" in line)
    file.write_text(
        f"name: first\ndata: {{source: digits}}\nmodel: {{kind: logistic}}\nfleet:\n{body}\n"
        f"  clients: {10 * clients}\n  profile_files: ['{path}']\n"
        f"method: {{aggregation: {{kind: fedbuff, size: 2}}}}\nstop: {{versions: 2}}\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 0, result.output


# ------------------------------------------------------------------ the pages


def parse(words: list[str]) -> dict[str, Any]:
    """Return the parameters that the command would get; nothing is run."""
    parser = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    params: dict[str, Any] = parser.make_context(words[0], list(words[1:])).params
    return params


def submitted() -> list[tuple[str, str, list[str]]]:
    """Return (where, launcher file, arguments) of every `ray submit` in pages and files."""
    found = []
    for path in [*PAGES, ROOT / "README.md", *CONFIGS.glob("*.yaml")]:
        lines = path.read_text(encoding="utf-8").replace("\\\n#", " ").replace("\\\n", " ")
        for file, words in re.findall(r"ray submit (\S+) orchestrator/submit\.py -- +(.*)", lines):
            found.append((path.relative_to(ROOT).as_posix(), file, shlex.split(words)))
    return found


@pytest.mark.parametrize(("where", "file", "words"), submitted())
def test_what_is_submitted_parses(where: str, file: str, words: list[str]) -> None:
    """The launcher file and the experiment exist, and the run joins the cluster's Ray."""
    assert (ROOT / file).exists(), where
    if words == ["run", "..."]:
        return
    parsed = parse(words)
    assert parsed["address"] == "auto", where
    if parsed["file"] is not None:
        assert (ROOT / str(parsed["file"]).removeprefix("latecomer/")).exists(), where


def test_every_launcher_shows_how() -> None:
    """Each launcher file and its page say how a run is submitted."""
    places = {(where, Path(file).stem) for where, file, _ in submitted()}
    for name in LAUNCHERS:
        assert (f"cluster_configs/{name}.yaml", name) in places
        assert (f"docs/clusters/{name}.md", name) in places


def test_every_file_has_a_page() -> None:
    """The index links each page, and each file names its own."""
    index = PAGES[0].read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"](clusters/{page.name})" in index
    for name in [*LAUNCHERS, *KUBERNETES]:
        page = "kuberay" if name in KUBERNETES else name
        assert f"docs/clusters/{page}.md" in text_of(name)


def test_a_jobs_folder_is_small(tmp_path: Path) -> None:
    """What `ray job submit --working-dir .` packs has our experiments, and neither git nor code."""
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import create_package

    target = tmp_path / "package.zip"
    create_package(str(ROOT), target, include_gitignore=True)
    with ZipFile(target) as package:
        names = set(package.namelist())
        size = sum(info.file_size for info in package.infolist())
    assert "experiments/quickstart.yaml" in names
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {
        ".git",
        ".venv",
        "docs",
        "policies",
        "actors",
        "orchestrator",
        "latecomer.py",
    }
    assert size < 2**20
