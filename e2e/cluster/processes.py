"""The cluster's processes: started, remembered in a file each, found again, ended."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from settings import Problem, Settings


def start(settings: Settings, name: str, *command: str) -> None:
    """Starts a process inside the namespace; its output goes to a log of its name."""
    with open(settings.logs / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            [*settings.enter, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    record = {"pid": process.pid, "command": list(command)}
    (settings.run / f"{name}.json").write_text(json.dumps(record))


def restart(settings: Settings, name: str) -> None:
    """Starts a known process again with the same command line."""
    if alive(settings, name):
        raise Problem(f"{name} runs already")
    start(settings, name, *_record(settings, name)["command"])


def alive(settings: Settings, name: str) -> int | None:
    """The process id, if that process is still the one that was started."""
    try:
        record = json.loads((settings.run / f"{name}.json").read_text())
        command = Path(f"/proc/{record['pid']}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{record['pid']}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A process id is used again after a reboot: only the same program is ours. Just after the start it is nsenter.
    ours = record["command"][0].encode() in command[: 2 + len(settings.enter)]
    return record["pid"] if ours and state != "Z" else None


def known(settings: Settings) -> list[str]:
    """Names of every process that was started."""
    return sorted(path.stem for path in settings.run.glob("*.json"))


def end(settings: Settings, name: str) -> None:
    """Ends a process at once. Nothing it holds is kept, so it need not be asked."""
    if pid := alive(settings, name):
        kill(pid)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_for(settings: Settings, seconds: float, what: str, condition: Callable[[], object]) -> None:
    """Waits until the condition holds; when it does not in time, shows the end of every log."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
            reason = ""
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            reason = f": {error}"
        if time.monotonic() > deadline:
            raise Problem(f"not within {seconds:.0f} s: {what}{reason}\n{tails(settings)}")
        time.sleep(0.2)


def tails(settings: Settings, lines: int = 5) -> str:
    """The last lines of every log."""
    parts = []
    for log in sorted(settings.logs.glob("*.log")):
        end_of_log = log.read_text(errors="replace").splitlines()[-lines:]
        parts.append("\n".join([f"== {log}", *end_of_log]))
    return "\n".join(parts)


def _record(settings: Settings, name: str) -> dict:
    path = settings.run / f"{name}.json"
    if not path.exists():
        raise Problem(f"{name}: not a process of this cluster; known are {', '.join(known(settings)) or 'none'}")
    return json.loads(path.read_text())
