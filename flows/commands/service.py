"""The local server with its UI."""

from argparse import Namespace

from flows.commands.answering import answer


def up(arguments: Namespace) -> int:
    """k2 up"""
    from flows.server import up as start

    service = start(arguments.runs_dir, arguments.host, arguments.port)
    answer(arguments, {"url": service.ui_url}, f"the UI is at {service.ui_url}; `k2 down` ends it")
    return 0


def down(arguments: Namespace) -> int:
    """k2 down"""
    from flows.server import down as end

    ended = end(arguments.runs_dir)
    answer(arguments, {"url": None, "ended": bool(ended)}, "server and worker have ended" if ended else "no server was running")
    return 0
