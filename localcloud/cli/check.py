"""`check`: tries every way through the booted network and shows what came of it; 1 where anything failed."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import asdict

from localcloud import show
from localcloud.apollo.fleet import fleet
from localcloud.cli.arguments import within
from localcloud.show import say
from localcloud.stack.running import booted_cloud, host_names, stack_outputs


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flows", type=_count, default=1, help="requests of each kind at the same time (default: 1)")
    parser.add_argument(
        "--patience",
        type=_count,
        default=20,
        metavar="SECONDS",
        help="how long each way is tried until it passes (default: 20)",
    )


def _count(text: str) -> int:
    return within(text, 1, 1000)


def run(args: argparse.Namespace) -> int:
    from localcloud.apollo import check, demo

    cloud = booted_cloud(args.stack)
    rows = cloud.hosts()
    # A host that is not there has no row of its own in the matrix, and must not make it shorter in silence.
    hosts, absent = check.standing(fleet(cloud.folder, rows), host_names(args.stack), args.patience)
    exported = stack_outputs(args.stack)
    expected = check.Expectations(
        mtu=int(exported["overlay"]["mtu"]),
        domain=exported["edge"]["domain"],
        consul_domain=exported["consul"]["domain"],
        edge=("127.0.0.1", cloud.edge_port or 0),
        demo=tuple(demo.running(hosts)),
    )
    shown = 0

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if done * 10 // of > shown:
            shown = done * 10 // of
            say(f"  {done} of {of} tried, {time.monotonic() - begun:.0f} s")

    begun = time.monotonic()
    say(f"checking the network of {len(rows)} hosts …")
    results = absent + check.run(hosts, expected, flows=args.flows, patience=args.patience, progress=progress)
    failed = [result for result in results if not result.passed]
    if args.json:
        show.document([asdict(result) for result in results])
    else:
        passed = Counter(result.kind for result in results if result.passed)
        total = Counter(result.kind for result in results)
        show.table(("what", "passed", "of"), [(kind, str(passed[kind]), str(count)) for kind, count in total.items()])
        if failed:
            print()
            show.table(("failed", "from", "to", "seen"), [(r.kind, r.source, r.target, r.detail) for r in failed])
        denied = cloud.ask("machine", {"order": "denied"}).get("denied", []) if failed else []
        if denied:
            print("\nsecurity groups refused: " + ", ".join(denied[:20]))
        print(f"\n{len(results) - len(failed)} of {len(results)} passed in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0
