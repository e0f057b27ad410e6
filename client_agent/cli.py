"""``deltafleet-agent``: enrol a vehicle, keep its model up to date, answer.

Exit status: 0 done, 1 a clear refusal (the message says what and how to mend it), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from client_agent.config import CONFIG_FILE, Config, ConfigRefused
from client_agent.transport import TlsSettings
from model_registry.contract.errors import Refusal

ROOTS = ("image-root.json", "director-root.json")
MAX_ROOT_BYTES = 64 * 1024
MAX_PICTURE_BYTES = 16 * 1024 * 1024
JOIN_S = 5.0

EXAMPLES = """examples:
  deltafleet-agent enroll --server https://fleet.example.com --token T --vehicle-id car-17 \\
      --family road-signs --hardware-id x86-64 --state /var/lib/deltafleet --roots ./roots
  deltafleet-agent run --state /var/lib/deltafleet --listen 127.0.0.1:8008
  deltafleet-agent infer --state /var/lib/deltafleet stop-sign.jpg
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except Refusal as exc:
        print(f"deltafleet-agent: {exc}", file=sys.stderr)
    except OSError as exc:
        print(f"deltafleet-agent: {exc.filename or 'the system'}: {exc.strerror or exc}", file=sys.stderr)
    return 1


def enroll(options: argparse.Namespace) -> int:
    """Make the vehicle's key, keep the roots of trust, and introduce the vehicle to the registry."""
    from client_agent.identity import Identity
    from client_agent.lock import locked
    from client_agent.pace import PaceLimits
    from client_agent.registry import Registry
    from client_agent.transport import HttpTransport

    tls = TlsSettings(options.ca_file, options.certificate_file, options.key_file, options.allow_plain_http)
    names = (options.vehicle_id, options.family, options.hardware_id)
    config = Config(options.server.rstrip("/"), *names, tls=tls)
    state: Path = options.state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(state):
        if (state / CONFIG_FILE).exists() and (config.vehicle_id, config.family) != _names(Config.load(state)):
            raise ConfigRefused(f"{state} belongs to another vehicle", remedy="choose another --state")
        roots = _read_roots(options.roots)
        identity = Identity.create(state)
        answer = Registry(config, lambda: identity, HttpTransport(tls, PaceLimits())).enrol(options.token)
        # Only what a registry agreed to is kept: a refused attempt leaves an enrolled vehicle as it was.
        _keep_roots(roots, state)
        config.save(state)
    _say(options, {"vehicle_id": config.vehicle_id, "state": answer}, f"{config.vehicle_id}: {answer}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Answer and keep up to date until SIGTERM."""
    from client_agent.agent import Agent
    from client_agent.inference.service import Address, InferenceService
    from client_agent.lock import locked
    from client_agent.stop import StopSignal

    logging.getLogger("client_agent").setLevel(logging.INFO)
    address = Address.parse(options.listen or f"unix:{options.state / 'inference.sock'}")
    config = Config.load(options.state)
    stop = StopSignal()
    # Taken by sigwait below, in this thread alone: a handler could interrupt a lock that it then waits for.
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    with locked(options.state):
        agent = Agent(options.state, config, stop)
        agent.wake()
        service = InferenceService(agent.live, address)
        service.start()
        print(f"listening on {service.address}", flush=True)
        updates = threading.Thread(target=agent.run, name="updates", daemon=True)
        updates.start()
        signal.sigwait(endings)
        stop.set()
        service.stop()
        # A download may wait for the network; the journal takes it up after the next start.
        updates.join(JOIN_S)
        agent.close()
    return 0


def check(options: argparse.Namespace) -> int:
    """One pass: ask the registry and bring the vehicle to what it assigns."""
    from client_agent.agent import Agent
    from client_agent.lock import locked
    from client_agent.stop import StopSignal

    # Nobody asks anything during a single pass: the self-test is all the probation there can be.
    config = replace(Config.load(options.state), probation_s=0.0)
    with locked(options.state):
        agent = Agent(options.state, config, StopSignal())
        agent.wake()
        progress = agent.check()
    status = describe(options.state, config)
    _say(options, status, _status_lines(status))
    return 1 if progress.failure else 0


def status(options: argparse.Namespace) -> int:
    """What runs here and where an update stands; needs no network."""
    found = describe(options.state, Config.load(options.state))
    _say(options, found, _status_lines(found))
    return 0


def infer(options: argparse.Namespace) -> int:
    """Classify pictures with the installed model; needs no network and no running agent."""
    from client_agent.agent import open_slots
    from client_agent.inference.engine import Engine
    from client_agent.inference.live import NoModel

    Config.load(options.state)
    slots = open_slots(options.state)
    active = slots.index.active
    if active is None:
        raise NoModel
    engine = Engine(slots.load(active))
    results: list[dict[str, Any]] = []
    for picture in options.image:
        try:
            with picture.open("rb") as file:
                guesses = engine.classify(file.read(MAX_PICTURE_BYTES), top=options.top)
            results.append({"file": str(picture), "classes": [asdict(guess) for guess in guesses]})
        except (Refusal, OSError) as exc:
            results.append({"file": str(picture), "error": exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)})
    manifest = engine.manifest
    answer = {"family": manifest.family, "version": manifest.version, "content_sha256": engine.sha256, "results": results}
    _say(options, answer, "\n".join(_result_line(result) for result in results))
    return 1 if any("error" in result for result in results) else 0


def describe(state: Path, config: Config) -> dict[str, Any]:
    """The status of a state directory, as ``status --json`` prints it."""
    from client_agent.agent import COUNTERS_FILE, JOURNAL_FILE, REPORTS_FILE, open_slots, read_counters
    from client_agent.journal import Journal
    from client_agent.lock import is_locked
    from client_agent.reports import waiting

    index = open_slots(state).index
    progress = Journal(state / JOURNAL_FILE).read()
    previous = index.record(index.active.other) if index.active else None
    return {
        "vehicle_id": config.vehicle_id,
        "family": config.family,
        "hardware_id": config.hardware_id,
        "server": config.server,
        "agent_running": is_locked(state),
        "installed": asdict(index.running) if index.running else None,
        "previous": asdict(previous) if previous else None,
        "counter_floor": index.counter_floor,
        "state": progress.state,
        "deployment_id": progress.assignment.deployment_id if progress.assignment else None,
        "received": asdict(progress.received),
        "failure": asdict(progress.failure) if progress.failure else None,
        "inferences": asdict(read_counters(state / COUNTERS_FILE)),
        "reports_waiting": waiting(state / REPORTS_FILE),
    }


def _status_lines(status: dict[str, Any]) -> str:
    installed, failure, received = status["installed"], status["failure"], status["received"]
    running = f"{installed['version']} ({installed['mark']}, {installed['sha256'][:12]})" if installed else "no model yet"
    lines = [
        f"vehicle    {status['vehicle_id']} ({status['family']}, {status['hardware_id']})",
        f"running    {running}",
        f"state      {status['state']}",
        f"received   {received['metadata']} B metadata, {received['delta']} B delta, {received['full']} B full",
    ]
    if failure:
        lines.append(f"last time  {failure['code']}: {failure['detail']}")
    return "\n".join(lines)


def _result_line(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['file']}: {result['error']}"
    return f"{result['file']}: " + ", ".join(f"{guess['label']} {guess['score']:.4g}" for guess in result["classes"])


def _read_roots(roots: Path) -> dict[str, bytes]:
    """The roots of trust; they are the one thing that a vehicle must be given by hand. Raises ConfigRefused."""
    found = {}
    for name in ROOTS:
        try:
            with (roots / name).open("rb") as file:
                data = file.read(MAX_ROOT_BYTES)
            json.loads(data)
        except (OSError, ValueError) as exc:
            raise ConfigRefused(
                f"{roots / name} is not a root of trust", remedy="get both roots from the registry's keys"
            ) from exc
        found[name] = data
    return found


def _keep_roots(roots: dict[str, bytes], state: Path) -> None:
    from client_agent.agent import TRUST
    from client_agent.journal import write_durably

    (state / TRUST).mkdir(exist_ok=True)
    for name, data in roots.items():
        write_durably(state / TRUST / name, data)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _names(config: Config) -> tuple[str, str]:
    return config.vehicle_id, config.family


def _say(options: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value) if options.json else text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deltafleet-agent",
        description="Keeps a vehicle's model up to date and answers with it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _enroll_options(_command(commands, enroll, "introduce this vehicle to a registry, once"))
    running = _command(commands, run, "answer inferences and keep the model up to date (the daemon)", json_output=False)
    running.add_argument("--listen", metavar="ADDRESS", help="unix:PATH or 127.0.0.1:PORT (default: unix:STATE/inference.sock)")
    _command(commands, check, "one pass: ask the registry, update if it says so, exit")
    _command(commands, status, "what runs here and where an update stands")
    inferring = _command(commands, infer, "classify pictures with the installed model, offline")
    inferring.add_argument("image", nargs="+", type=Path, help="a BMP, JPEG, PNG, PPM or WebP file")
    inferring.add_argument("--top", type=_count, default=5, metavar="N", help="how many classes (default: 5)")
    return parser


def _command(commands: Any, act: Callable[[argparse.Namespace], int], summary: str, *, json_output: bool = True) -> Any:
    command = commands.add_parser(act.__name__, help=summary, description=act.__doc__)
    command.add_argument("--state", type=Path, required=True, metavar="DIR", help="the agent's state directory")
    command.add_argument("-v", "--verbose", action="store_true", help="say on standard error what happens")
    if json_output:
        command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=act)
    return command


def _enroll_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--server", required=True, metavar="URL", help="the registry's address")
    command.add_argument("--token", required=True, help="a one-time enrolment token")
    command.add_argument("--vehicle-id", required=True, metavar="ID", help="this vehicle's name in the fleet")
    command.add_argument("--family", required=True, help="the line of models that it runs")
    command.add_argument("--hardware-id", required=True, metavar="ID", help="its hardware class")
    command.add_argument("--roots", type=Path, required=True, metavar="DIR", help=f"a directory with {' and '.join(ROOTS)}")
    command.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities to believe, instead of the system's")
    command.add_argument("--certificate-file", type=Path, metavar="FILE", help="client certificate, for mutual TLS")
    command.add_argument("--key-file", type=Path, metavar="FILE", help="its private key")
    command.add_argument(
        "--allow-plain-http", action="store_true", help="accept http beyond this machine, on a network of your own"
    )


if __name__ == "__main__":
    sys.exit(main())
