from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli.services.parts import Account, Role, Service, word
from hakuriver.cli.services.steps import steps
from hakuriver.cli.services.units import unit
from hakuriver.config import Config, Database, Network, Paths, Runner
from hakuriver.errors import ConfigError
from support.unit_files import parse_unit, unit_words

ROOT = Account("root", 0, 0, Path("/root"))
ALICE = Account("alice", 1001, 1002, Path("/home/alice"))
STATE = Paths(state_dir="/var/lib/hakuriver")
#: An ordinary account of every Debian.
DAEMON = "daemon"

# Line by line what systemd.exec(5) of systemd 252 says of NoNewPrivileges=.
IMPLY_NO_NEW_PRIVILEGES = {
    "DynamicUser",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallLog",
}
# What they have to say before the sandbox, whichever it is.
LIFE = {"Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "LimitNOFILE"}
START = {"Type", "ExecStart", "SyslogIdentifier"}
RUNNERS = {"KillMode", "OOMPolicy", "LimitNPROC"}


def service(
    role: Role = "runner",
    account: Account = ROOT,
    *,
    system: bool = True,
    launcher: str = "service",
    paths: Paths = STATE,
    python: str = "/opt/hakuriver/bin/python",
    config_file: str = "/etc/hakuriver/config.toml",
    port: int = 8000,
    db_file: str = "",
) -> Service:
    config = Config(
        network=Network(host_port=port),
        paths=paths,
        database=Database(db_file=db_file),
        runner=Runner(launcher=launcher),  # type: ignore[arg-type]
    )
    return Service(
        role=role,
        account=account,
        system=system,
        python=python,
        config_file=Path(config_file),
        config=config,
    )


def keys(made: Service) -> dict[str, list[str]]:
    return parse_unit(unit(made))["Service"]


@pytest.mark.parametrize("role", ["host", "runner"])
@pytest.mark.parametrize("account", [ROOT, ALICE])
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("launcher", ["auto", "service", "scope", "process"])
def test_every_unit_starts_at_boot_and_again_after_a_fault(
    role: Role, account: Account, *, system: bool, launcher: str
) -> None:
    sections = parse_unit(unit(service(role, account, system=system, launcher=launcher)))
    made = sections["Service"]
    assert made["Type"] == ["exec"]
    assert made["Restart"] == ["on-failure"]
    assert made["RestartPreventExitStatus"] == [str(ConfigError.exit_code)]
    assert {*START, *LIFE} <= made.keys()
    assert ("KillMode" in made) == (role == "runner")
    assert sections["Install"] == {
        "WantedBy": ["multi-user.target" if system else "default.target"]
    }
    # Where its tasks may be, if sudo is closed to it.
    manager = " user@1001.service" if (role, account) == ("runner", ALICE) else ""
    waits = {
        "After": [f"network-online.target{manager}"],
        "Wants": ["network-online.target"],
    }
    assert {key: sections["Unit"].get(key) for key in waits} == (
        waits if system else dict.fromkeys(waits)
    )
    assert made.get("User") == (["alice"] if system and account is ALICE else None)
    assert all(len(values) == 1 for key, values in made.items() if key not in MORE_THAN_ONCE)


MORE_THAN_ONCE = {"SystemCallFilter", "ExecStartPre"}


def test_the_command_names_interpreter_role_and_file() -> None:
    for role in ("host", "runner"):
        command = keys(service(role, ALICE))["ExecStart"][0]
        assert command.startswith(":")
        assert unit_words(command[1:]) == [
            "/opt/hakuriver/bin/python",
            *("-m", "hakuriver", role, "-c", "/etc/hakuriver/config.toml"),
        ]


NAMES = st.text(
    st.characters(exclude_characters="/\x7f", exclude_categories=("Cs", "Cc")), min_size=1
).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(PATHS, PATHS)
def test_paths_reach_the_program_as_they_are(config_file: str, state: str) -> None:
    made = service("host", ALICE, config_file=config_file, paths=Paths(state_dir=state))
    sections = parse_unit(unit(made))
    assert unit_words(sections["Service"]["ExecStart"][0][1:])[-1] == config_file
    assert f"-{state}/host" in unit_words(sections["Service"]["ReadWritePaths"][0])
    assert {config_file, f"{state}/host"} <= {*unit_words(sections["Unit"]["RequiresMountsFor"][0])}


@given(st.text(st.characters(exclude_characters="\"'\\\x7f", exclude_categories=("Cs", "Cc"))))
def test_so_does_the_interpreter(name: str) -> None:
    command = keys(service(python=f"/opt/{name}"))["ExecStart"][0]
    assert unit_words(command[1:])[0] == f"/opt/{name}"


@pytest.mark.parametrize("name", ["a\nExecStart=/bin/evil", "a\rb", "a\tb", "a\x7f", "\udce9"])
def test_what_no_unit_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no unit file"):
        word(name)
    for made in (
        service(config_file=f"/etc/{name}"),
        service(python=f"/opt/{name}"),
        service(paths=Paths(state_dir=f"/srv/{name}")),
    ):
        with pytest.raises(ConfigError, match="no unit file"):
            unit(made)


@pytest.mark.parametrize("name", ["o'brien", 'a"b', "a\\b"])
def test_an_interpreter_that_systemd_would_not_start_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="install HakuRiver elsewhere"):
        unit(service(python=f"/home/{name}/bin/python"))


def test_a_runner_that_stops_ends_no_task() -> None:
    for launcher in ("auto", "service", "scope", "process"):
        for account, system in ((ROOT, True), (ALICE, True), (ALICE, False)):
            made = keys(service(account=account, system=system, launcher=launcher))
            assert made["KillMode"] == ["process"]
            assert made["OOMPolicy"] == ["continue"]


@pytest.mark.parametrize("launcher", ["process", "scope"])
@pytest.mark.parametrize("account", [ROOT, ALICE])
@pytest.mark.parametrize("system", [True, False])
def test_tasks_that_descend_from_the_runner_inherit_no_sandbox(
    launcher: str, account: Account, *, system: bool
) -> None:
    made = keys(service(account=account, system=system, launcher=launcher))
    assert made["TasksMax"] == ["infinity"]
    where = {"User", "StateDirectory", "StateDirectoryMode", "WorkingDirectory"}
    assert made.keys() <= {*START, *LIFE, *RUNNERS, *where, "TasksMax"}


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("launcher", ["auto", "service"])
def test_a_runner_that_needs_sudo_can_gain_rights(*, system: bool, launcher: str) -> None:
    made = keys(service(account=ALICE, system=system, launcher=launcher))
    assert not made.keys() & (IMPLY_NO_NEW_PRIVILEGES | {"CapabilityBoundingSet", "PrivateUsers"})
    assert made["UMask"] == ["0077"]


def test_a_root_runner_keeps_the_rights_that_its_work_takes() -> None:
    paths = Paths(
        state_dir="/var/lib/hakuriver",
        shared_dir="/mnt/a b",
        local_temp_dir="/scratch",
        runner_log_file="/var/log/hakuriver/runner.log",
    )
    made = keys(service(paths=paths))
    rights = made["CapabilityBoundingSet"][0].split()
    assert rights == ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"]
    assert made["SystemCallFilter"] == ["@system-service", "~@privileged", "@chown"]
    # It looks at the processes and groups of tasks.
    assert not made.keys() & {"ProtectProc", "ProcSubset", "PrivateUsers", "User"}
    assert (made["StateDirectory"], made["StateDirectoryMode"]) == (["hakuriver"], ["0711"])
    assert unit_words(made["ReadWritePaths"][0]) == [
        *("-/var/lib/hakuriver", "-/var/log/hakuriver", "-/mnt/a b", "-/scratch")
    ]
    assert made["ExecStartPre"] == ['+:/bin/mkdir -p -m 0700 -- "/var/log/hakuriver"']
    assert made["NoNewPrivileges"] == made["PrivateTmp"] == ["yes"]


def test_the_state_of_a_root_runner_is_passed_through_by_its_tasks() -> None:
    made = keys(service(paths=Paths(state_dir="/srv/state")))
    assert "StateDirectory" not in made
    assert made["ExecStartPre"] == ['+:/bin/mkdir -p -m 0711 -- "/srv/state"']
    with pytest.raises(ConfigError, match='write state_dir = "/var/lib/hakuriver"'):
        unit(service(paths=Paths()))
    unit(service(paths=Paths(), launcher="process"))


def test_a_host_has_no_rights_and_writes_to_its_state_alone() -> None:
    paths = Paths(shared_dir="/mnt/shared", host_log_file="~/logs/host.log")
    sections = parse_unit(unit(service("host", ALICE, paths=paths)))
    made = sections["Service"]
    own = ["/home/alice/.local/state/hakuriver/host", "/home/alice/logs"]
    assert unit_words(made["ReadWritePaths"][0]) == [f"-{path}" for path in own]
    assert made["CapabilityBoundingSet"] == [""]
    assert made["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert made["ProtectSystem"] == ["strict"]
    assert made["ProtectHome"] == ["read-only"]
    for key in ("NoNewPrivileges", "PrivateUsers", "PrivateTmp", "PrivateDevices"):
        assert made[key] == ["yes"]
    command = unit_words(made["ExecStartPre"][0].removeprefix("+:"))
    assert command == [
        *("/usr/bin/setpriv", "--reuid=1001", "--regid=1002", "--init-groups"),
        *("/bin/mkdir", "-p", "--", *own),
    ]
    # It cannot start before the folder that it reads logs from is mounted.
    assert "/mnt/shared" in unit_words(sections["Unit"]["RequiresMountsFor"][0])
    # It would remove what other programs of the account share.
    assert "RemoveIPC" not in made


def test_host_and_runner_of_one_machine_do_not_take_each_others_state() -> None:
    assert keys(service("host", ALICE))["StateDirectory"] == ["hakuriver/host"]
    assert keys(service("runner", ALICE))["StateDirectory"] == ["hakuriver/runner"]
    assert keys(service("host", ALICE))["StateDirectoryMode"] == ["0700"]
    assert "ExecStartPre" not in keys(service("host", ALICE))
    elsewhere = service("host", ALICE, db_file="/var/lib/hakuriver/own/h.db")
    assert "StateDirectory" not in keys(elsewhere)
    assert unit_words(keys(elsewhere)["ReadWritePaths"][0]) == ["-/var/lib/hakuriver/own"]


def test_a_low_port_takes_one_right() -> None:
    low, high = (keys(service("host", ALICE, port=port)) for port in (443, 1024))
    assert low["CapabilityBoundingSet"] == low["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert "PrivateUsers" not in low
    assert "AmbientCapabilities" not in high


@pytest.mark.parametrize("folder", ["/tmp", "/tmp/x", "/var/tmp/x"])
def test_what_lies_among_temporary_files_is_not_hidden(folder: str) -> None:
    for made in (
        service("host", ALICE, paths=Paths(shared_dir=folder)),
        service(python=f"{folder}/python"),
        service("host", ALICE, config_file=f"{folder}/c.toml"),
    ):
        found = keys(made)
        assert "PrivateTmp" not in found
        assert {"-/tmp", "-/var/tmp"} <= {*unit_words(found["ReadWritePaths"][0])}


def test_a_users_own_manager_is_asked_for_nothing_that_takes_root() -> None:
    host = keys(service("host", ALICE, system=False))
    assert host["NoNewPrivileges"] == ["yes"]
    assert host["WorkingDirectory"] == ["/"]
    for made in (host, keys(service("runner", ALICE, system=False))):
        assert not made.keys() & {"User", "StateDirectory", "CapabilityBoundingSet", "ExecStartPre"}
        assert not [key for key in made if key.startswith(("Private", "Protect", "ReadWrite"))]


def test_a_relative_path_is_refused() -> None:
    for made in (
        service("host", ALICE, paths=Paths(state_dir="state")),
        service("host", ALICE, db_file="host.db"),
        service(paths=Paths(state_dir="/s", shared_dir="shared")),
    ):
        with pytest.raises(ConfigError, match="is relative"):
            unit(made)


@pytest.mark.parametrize(
    ("role", "read", "unread"),
    [("host", {"host.pem", "host.key"}, {"ca.pem"}), ("runner", {"ca.pem"}, {"host.pem"})],
)
def test_what_a_service_reads_for_tls_is_there_before_it_and_not_hidden(
    role: Role, read: set[str], unread: set[str]
) -> None:
    network = Network(
        tls_cert="/srv/tls/host.pem", tls_key="/srv/tls/host.key", tls_ca="/srv/tls/ca.pem"
    )
    made = replace(service(role, ALICE), config=Config(network=network, paths=STATE))
    mounts = unit_words(parse_unit(unit(made))["Unit"]["RequiresMountsFor"][0])
    assert {f"/srv/tls/{name}" for name in read} <= set(mounts)
    assert not {f"/srv/tls/{name}" for name in unread} & set(mounts)
    hidden = msgspec.structs.replace(network, tls_cert="/tmp/host.pem")
    made = replace(service("host", ALICE), config=Config(network=hidden, paths=STATE))
    assert "PrivateTmp" not in keys(made)
    relative = msgspec.structs.replace(network, tls_key="host.key")
    made = replace(service("host", ALICE), config=Config(network=relative, paths=STATE))
    with pytest.raises(ConfigError, match=r"network\.tls_key"):
        unit(made)
    public = Config(network=Network(tls_ca="system"), paths=STATE)
    assert "system" not in unit(replace(service("runner", ALICE), config=public)).split()


def test_every_comment_is_a_line_of_its_own() -> None:
    for made in (service("host", ALICE), service(), service(account=ALICE)):
        for line in unit(made).splitlines():
            assert line.startswith("# ") or "#" not in line


def test_a_name_that_sudo_would_misread_is_given_as_a_number() -> None:
    odd = Account("1001", 1001, 1001, Path("/home/alice@corp"))
    lines = steps(service(account=odd), Path("/x/hakuriver-runner.service"), sudo=True)
    assert any("'#1001 ALL=(ALL)" in line for line in lines)


# The judge


def analyze(*words_: str, **env: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        assert "CI" not in os.environ, "systemd-analyze is missing"
        pytest.skip("systemd-analyze is missing")
    done = subprocess.run(
        [program, "--no-pager", *words_],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LOG_LEVEL" in "".join(env) or not done.stderr, done.stderr
    return done.stdout + done.stderr


VARIANTS = {
    "host": ("host", DAEMON, True, "service", 2.0),
    "host on a low port": ("host", DAEMON, True, "low port", 2.0),
    "root's runner": ("runner", "root", True, "service", 3.0),
    "root's runner, process": ("runner", "root", True, "process", 10.0),
    "a user's runner": ("runner", DAEMON, True, "service", 9.0),
    "a user's runner, scope": ("runner", DAEMON, True, "scope", 10.0),
    "a user's own host": ("host", DAEMON, False, "service", 7.0),
    "a user's own runner": ("runner", DAEMON, False, "service", 10.0),
    "a user's own runner, process": ("runner", DAEMON, False, "process", 10.0),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_systemd_understands_every_variant(variant: str, tmp_path: Path) -> None:
    role, name, system, launcher, most = VARIANTS[variant]
    entry = pwd.getpwnam(name)
    made = service(
        "host" if role == "host" else "runner",
        Account(name, entry.pw_uid, entry.pw_gid, Path("/home") / name),
        system=system,
        launcher=launcher.replace("low port", "service"),
        python=sys.executable,
        config_file="/etc/a b/100%/$HOME/o'brien \"x\\y.toml",
        paths=Paths(state_dir="/var/lib/hakuriver", shared_dir="/mnt/50% \"of\" a\\b 'c'"),
        port=443 if launcher == "low port" else 8000,
    )
    file = tmp_path / made.unit_name
    file.write_text(unit(made), "utf-8")
    manager = () if system else ("--user",)
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    analyze(*manager, "verify", "--man=no", str(file), **runtime)
    judged = analyze("security", "--offline=true", str(file))
    found = re.search(r"exposure level for \S+: ([\d.]+)", judged)
    assert found
    assert float(found[1]) <= most


def test_systemd_reads_paths_as_they_are(tmp_path: Path) -> None:
    odd = "/mnt/50% \"of\" a\\b 'c' ${HOME} ü"
    made = service(
        python=sys.executable, config_file=f"{odd}.toml", paths=Paths(state_dir=f"{odd}/s")
    )
    file = tmp_path / made.unit_name
    file.write_text(unit(made), "utf-8")
    dump = analyze("verify", "--man=no", str(file), SYSTEMD_LOG_LEVEL="debug")
    assert f"RequiresMountsFor: {odd}.toml " in dump
    assert re.search(rf"ReadWritePaths: .*{re.escape(f'-{odd}/s')}( |$)", dump, re.MULTILINE)
    lines = [line.partition(": ")[2] for line in dump.splitlines() if "Command Line:" in line]
    commands = [shlex.split(line.replace("\\$", "$")) for line in lines]
    assert [sys.executable, "-m", "hakuriver", "runner", "-c", f"{odd}.toml"] in commands
    assert ["/bin/mkdir", "-p", "-m", "0711", "--", f"{odd}/s"] in commands
