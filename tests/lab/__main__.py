"""A lab to try things in: ``python -m tests.lab`` starts it and ends it at Ctrl-C.

With ``build`` it only builds what is to be booted.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path


def _main() -> int:
    if sys.argv[1:] not in ([], ["up"], ["build"]):
        sys.exit("usage: python -m tests.lab [up | build]")
    # What it shares with the tests is found from their folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from lab.cache import Cache  # noqa: PLC0415
    from lab.image import build  # noqa: PLC0415
    from lab.lab import Lab  # noqa: PLC0415

    # Both end it in order, also as a job in a shell's background, where interrupts are ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    begin = time.monotonic()

    def tell(text: str) -> None:
        _say(f"{time.monotonic() - begin:6.1f} s: {text}")

    if sys.argv[1:] == ["build"]:
        build(Cache.default(), tell)
        return 0
    with tempfile.TemporaryDirectory(prefix="hakuriver-lab-") as folder:
        lab = Lab(Path(folder), tell)
        try:
            lab.start()
            for machine in lab.machines.values():
                _say(f"\n{machine.name}, as root (or haku, worker, lin):\n{machine.ssh_line()}")
            _say(f"\nshared: {lab.shared} is /shared inside; the host is {lab.url}")
            access = f"HAKURIVER_URL={lab.url} HAKURIVER_TOKEN={lab.token}"
            _say(f"\n{access} hakuriver.client --list-nodes\n\nCtrl-C ends it.")
            signal.pause()
        except KeyboardInterrupt:
            _say("ending")
        finally:
            lab.close()
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(_main())
