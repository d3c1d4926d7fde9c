"""The host's program, `apollo VERB …`: a verb for each thing that a unit or an operator runs. See USAGE.

A module is imported when its verb is asked for: user-data alone brings what fetches the rest, and consul-template runs one verb
after another. On a host this file is /usr/local/lib/apollo/__main__.py, beside the packages that it imports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

# Raised when what `ops` asks for is no longer what an earlier program understands.
VERSION = 1
USAGE = f"""\
usage: apollo VERB …
what an operator asks for:
  check [--json] [--wait SECONDS]   whether this host is what the plan says, and has its place in the network
  consul acl revoke                 on the server that leads: deletes the old tokens of rotated secrets now
  mesos needs ADDRESS               on a control node: the seconds that moving a slave's tasks may take
  mesos down ADDRESS                moves them elsewhere, and takes it down
  mesos up ADDRESS                  gives it back
  zookeeper members | add | remove NUMBER | own
  version                           {VERSION}
what ops asks for: --needs VERSION, then
  leave begin | end | undo SECONDS [INSTANCE]
  forget NODE ADDRESS
  survey [catalog]
  probe SECONDS ADDRESS …
  edge quiet SECONDS ADDRESS:PORT … | edge published SECONDS JSON
what units run:
  programs, secrets, firewall [check], metrics, names, register, servers, mesh up | sync | programs, edge apply [later],
  consul configure | acl | tokens, mesos master | marathon | agent | agent-stopped, zookeeper prepare"""
# Exit status: this program has no such verb (EX_USAGE of sysexits.h).
UNKNOWN = 64


def run(words: Sequence[str]) -> int | str | None:
    """What sys.exit takes: 0 or None is well, a text says what is not."""
    match words:
        case ["--needs", version, *rest]:
            if int(version) > VERSION:
                print(f"apollo: this host's program has version {VERSION}, and version {version} is asked for", file=sys.stderr)
                return UNKNOWN
            return run(rest)
        case ["version"]:
            print(VERSION)
        case ["programs" | "secrets" as verb]:
            from host.apollo import parameters

            return parameters.main(verb) or None
        case ["check", *options]:
            from host.apollo import check

            return check.main(options)
        case ["firewall"]:
            from host.apollo import firewall

            firewall.keep()
        case ["firewall", "check"]:
            from host.apollo import firewall

            return firewall.check()
        case ["mesh", "up"]:
            from host.apollo.mesh import routed

            routed.up()
        case ["mesh", "sync"]:
            from host.apollo.mesh import routed

            routed.follow()
        case ["mesh", "programs"]:
            from host.apollo.mesh.weave import programs

            return programs.main()
        case ["consul", "configure"]:
            from host.apollo.consul import configure

            return configure.main() or None
        case ["consul", "acl"]:
            from host.apollo.consul import acl

            return acl.main()
        case ["consul", "acl", "revoke"]:
            from host.apollo.consul import acl

            return acl.main(revoke=True)
        case ["consul", "tokens"]:
            from host.apollo import local
            from host.apollo.consul import acl

            acl.serve(local.facts())
        case ["metrics"]:
            from host.apollo import metrics

            return metrics.main()
        case ["names"]:
            from host.apollo.consul import names

            names.main()
        case ["register"]:
            from host.apollo import register

            return register.main()
        case ["servers"]:
            from host.apollo.mesos import scheduler

            scheduler.main()
        case ["mesos", "agent"]:
            from host.apollo import local
            from host.apollo.mesos import agent

            agent.run(local.facts())
        case ["mesos", "agent-stopped"]:
            from host.apollo.mesos import agent

            agent.end()
        case ["mesos", *rest]:
            from host.apollo.mesos import control

            return control.main(rest)
        case ["zookeeper", *rest]:
            from host.apollo import zookeeper

            return zookeeper.main(rest)
        case ["edge", "apply"]:
            from host.apollo.edge import apply

            return apply.main()
        case ["edge", "apply", "later"]:
            from host.apollo.edge import apply

            return apply.main(later=True)
        case ["edge", "quiet" | "published" as verb, seconds, *rest]:
            from host.apollo.edge import serving

            return serving.main(verb, seconds, *rest)
        case ["leave", "begin" | "end" | "undo" as verb, seconds, *instance] if len(instance) < 2:
            from host.apollo import leave

            return leave.main(verb, seconds, *instance)
        case ["forget", node, address]:
            from host.apollo.consul import forget

            return forget.main(node, address)
        case ["survey", *wanted]:
            from host.apollo import survey

            return survey.main(*wanted)
        case ["probe", seconds, *addresses]:
            from host.apollo import probe

            return probe.main(seconds, *addresses)
        case _:
            print(f"{USAGE}\napollo: no such verb here: {' '.join(words[:2]) or 'none was given'}", file=sys.stderr)
            return UNKNOWN
    return None


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
