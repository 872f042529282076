"""Manifests of other egress routers, and our own → what `manifests` is asked for, with notes of what became of each
thing. Routers behind one Service become one set; what cannot be one set is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from egress_router.config.inputs import Problems, SourceText
from egress_router.errors import Problem
from egress_router.manifests.containers import manifest_pods
from egress_router.manifests.forms import CALLOUT, explained
from egress_router.manifests.judge import holders, judge_pods, shared_addresses
from egress_router.manifests.objects import (
    ManifestObject,
    read_objects,
)
from egress_router.manifests.request import complete_request
from egress_router.manifests.services import Services
from egress_router.manifests.settings import pair_settings
from egress_router.manifests.unprocessed import no_pods
from egress_router.manifests.upstream.kept import Notebook
from egress_router.manifests.upstream.others import Fates
from egress_router.manifests.upstream.resource import router_of_resource
from egress_router.manifests.upstream.services import kept_service, nowhere, taken_over
from egress_router.manifests.upstream.workload import is_ours, router_of_pod
from egress_router.manifests.values import (
    PAIR_ROUTERS,
    PEERS_SUFFIX,
    Component,
    LegacyRouter,
    ManifestRequest,
    Note,
    NoteKind,
)
from egress_router.redirect.pair.values import ElectionNetwork

_MENDED = str.maketrans({"“": '"', "”": '"', "„": '"', "″": '"', "‘": "'", "’": "'", "‚": "'", "‑": "-"})
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2007\u202f", " "))
#: A dash in front of a list item.
_DASH = re.compile(r"^([ \t]*)[–—](?=[ \t])")


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """What the command line says: ``defaults`` of every request, the names of the options that were given, and the
    texts of --source and --gateway.
    """

    defaults: ManifestRequest
    given: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class LegacySet:
    """The routers behind one Service, as `manifests` is asked for them; ``first`` is the one that messages name, and
    ``old`` are the objects that are replaced.
    """

    request: ManifestRequest
    first: LegacyRouter
    old: tuple[ManifestObject, ...]


def mend(text: str, label: str) -> tuple[str, list[Note]]:
    """Undo what web pages do to quotes, hyphens and indentation, and take callouts away."""
    counts: dict[str, list[int]] = {"spaces": [], "typographic": [], "callouts": []}
    lines = text.split("\n")
    for number, raw in enumerate(lines):
        if raw.isascii() and not (raw.endswith((">", ")")) and CALLOUT.search(raw)):
            continue
        spaced = raw.translate(_SPACES)
        mended = _DASH.sub(r"\1-", spaced).translate(_MENDED)
        plain = CALLOUT.sub("", mended)
        for kind, before, after in (
            ("spaces", raw, spaced),
            ("typographic", spaced, mended),
            ("callouts", mended, plain),
        ):
            if before != after:
                counts[kind].append(number + 1)
        lines[number] = plain
    notes = []
    if found := counts["spaces"]:
        what = f"{len(found)} line{'s' * (len(found) > 1)} with no-break spaces, which are no indentation in YAML"
        notes.append(Note(NoteKind.WRONG, label, what))
    for kind, what in (
        ("typographic", "typographic quotes and dashes in {} are no YAML"),
        ("callouts", "callouts of a page of documentation in {} are taken away"),
    ):
        if found := counts[kind]:
            where = f"line{'s' * (len(found) > 1)} {', '.join(map(str, found[:20]))}{' …' * (len(found) > 20)}"
            notes.append(Note(NoteKind.WRONG, label, what.format(where)))
    return "\n".join(lines), notes


def parse_legacy(
    files: Sequence[SourceText], options: MigrateOptions, problems: Problems
) -> tuple[list[LegacySet], list[Note]]:
    """Return a request for each set of routers, and the notes about everything in the files.

    Raises ConfigurationError when the files have no router.
    """
    notes: list[Note] = []
    mended = []
    for file in files:
        text, found = mend(file.text, file.variable)
        notes += found
        mended.append(SourceText(file.variable, text))
    objects = read_objects(mended, problems)
    places = {id(item): number for number, item in enumerate(objects)}
    placed: list[tuple[int, LegacyRouter]] = []
    for item in objects:
        if item.kind == "EgressRouter":
            note = Notebook(item.where)
            router = router_of_resource(item, options.defaults, set(options.given), problems, note)
            placed += [(places[id(item)], router)] if router is not None else []
            notes += note.notes
    pods = manifest_pods(objects, problems)
    held: list[tuple[str, ...]] = [*((router.where, router.source) for _, router in placed), *holders(pods)]
    for pod in pods:
        note = Notebook(pod.name)
        if not is_ours(pod.item):
            judged = Problems()
            judge_pods([pod], objects, judged)
            for one in (*judged.errors, *judged.warnings):
                field = one.variable.removeprefix(pod.name).strip()
                text = str(replace(one, variable=field or "it", expected="")).removeprefix("it: ")
                note.add(NoteKind.WRONG, text)
        router = router_of_pod(pod, objects, options.defaults, set(options.given), problems, note)
        placed += [(places[id(pod.item)], router)] if router is not None else []
        notes += note.notes
    if not placed and not problems.errors:
        raise no_pods(objects, [file.variable for file in files], "migrate")
    routers = [router for _, router in sorted(placed, key=itemgetter(0))]
    if options.sources:
        if len(routers) != len(options.sources):
            message = f"{len(options.sources)} for {len(routers)} routers"
            problems.error("--source", None, "", message, "one for each router, in the order of the files")
            return [], notes
        # Each router has its own, whatever set it will be of.
        routers = [replace(one, source=source) for one, source in zip(routers, options.sources, strict=True)]
        held = [(router.where, router.source, router.pair) for router in routers]
        shared = [replace(problem, variable="--source") for problem in shared_addresses(held)]
    else:
        shared = shared_addresses(held)
    problems.errors += shared
    problems.errors = list(dict.fromkeys(problems.errors))
    sets: list[LegacySet] = []
    fates = Fates(objects, {id(pod.item) for pod in pods}, options.defaults.namespace)
    services = Services(objects)
    by_where = {item.where: item for item in objects}
    behind = [(router, services.selecting(router.labels, router.request.namespace)) for router in routers]
    for group, selecting in _groups(behind):
        request = _together(group, selecting, services, options, fates, problems, notes)
        if request is not None and _told_apart(group):
            same_name = services.named(request.name, request.namespace)
            replaced = [*selecting, same_name] if same_name is not None and same_name not in selecting else selecting
            old = [by_where[router.where] for router in group if router.where in by_where]
            sets.append(LegacySet(request, group[0], (*old, *replaced)))
            fates.written(request, group)
    _refuse_one_name(sets, problems)
    notes += fates.notes()
    return sets, notes


def _refuse_one_name(sets: Sequence[LegacySet], problems: Problems) -> None:
    """Note the sets that would be written under one name."""
    first: dict[tuple[str, str], LegacySet] = {}
    for one in sets:
        other = first.setdefault((one.request.namespace, one.request.name), one)
        if other is not one:
            message = f"would be written under the name of {other.first.where}, and the last one would win"
            expected = "another metadata.name, or one Service for both"
            problems.error(one.first.where, None, one.request.name, message, expected)


def _groups(
    routers: Sequence[tuple[LegacyRouter, list[ManifestObject]]],
) -> list[tuple[list[LegacyRouter], list[ManifestObject]]]:
    """Return the routers that stand behind one Service together, in their order, with the Services."""
    groups: dict[int, tuple[list[LegacyRouter], dict[int, ManifestObject]]] = {}
    group_of: dict[int, int] = {}
    for number, (router, services) in enumerate(routers):
        members, behind = groups[number] = ([router], {id(item): item for item in services})
        for other in sorted({group_of[key] for key in behind if key in group_of}):
            # This router connects groups that were apart.
            their_members, their_services = groups.pop(other)
            members[:0] = their_members
            behind = their_services | behind
        groups[number] = (members, behind)
        group_of |= dict.fromkeys(behind, number)
    order = {id(router): number for number, (router, _) in enumerate(routers)}
    found = [(sorted(one, key=lambda router: order[id(router)]), [*items.values()]) for one, items in groups.values()]
    return sorted(found, key=lambda one: order[id(one[0][0])])


def _together(
    group: list[LegacyRouter],
    found: list[ManifestObject],
    all_services: Services,
    options: MigrateOptions,
    fates: Fates,
    problems: Problems,
    notes: list[Note],
) -> ManifestRequest | None:
    first = group[0]
    fates.services(found)
    if different := _differences(group):
        what = " and ".join(different)
        names = ", ".join(router.where for router in group)
        behind = ", ".join(item.where for item in found)
        message = f"selects {names}, whose {what} differ: they cannot be one set"
        expected = "one Service for each, or the same in all"
        problems.error(behind, None, "", message, expected)
        return None
    note = Notebook(first.where)
    ours = all("egress-router/router" in router.labels for router in group)
    request = first.request
    found = [item for item in found if not ours or item.name != request.name + PEERS_SUFFIX]
    pair = first.pair if len(group) == PAIR_ROUTERS and group[0].source == group[1].source else ""
    for router in group if not pair else ():
        if router.pair:
            text = (
                f"EGRESS_PAIR={router.pair}, so that it takes {router.source} without asking the others: a pair is two "
                "workloads with one EGRESS_SOURCE behind one Service, both in the files"
            )
            notes.append(Note(NoteKind.LOST, router.where, text))
    replaced = None if found else all_services.named(request.name, request.namespace)
    if replaced is not None and not ours:
        about = Notebook(replaced.where)
        found = [replaced] if taken_over(replaced, about) else []
        notes += about.notes
    fates.services([replaced])
    if found and not ours:
        chosen = next((item for item in found if item.name in {router.request.name for router in group}), found[0])
        if chosen.name != request.name:
            note.changed(f"is named {chosen.name}, as its Service, which clients know")
        request = replace(request, name=chosen.name)
    kept_services = []
    for item in found:
        about = Notebook(item.where)
        containers = [one for router in group for one in router.containers]
        kept_services.append(kept_service(item, containers, problems, about))
        notes += () if ours else about.notes
    services = tuple(kept_services)
    headless = request.headless or any(item.spec.get("clusterIP") == "None" for item in found)
    if not found and not ours and request.component is Component.REDIRECT and _fallback_alone(first.destinations):
        headless = True
        note.changed("the Service is headless: with a fallback alone, clients may ask for any port")
    selectors = tuple(router.request.node_selector for router in group)
    same_selectors = len(set(selectors)) == 1
    kept = tuple(one for router in group for one in (router.request.kept or ()))
    request = replace(
        request,
        headless=headless,
        services=() if ours else services,
        kept=kept if len(kept) == len(group) else (),
        node_selector=selectors[0] if same_selectors else (),
        node_selectors=() if same_selectors else selectors,
    )
    if not ours and any(one.open_to_the_outside for one in services):
        note.changed("the NetworkPolicy lets anyone in to the ports, since a Service is reached from outside")
    if len(group) > 1 and not ours and not pair:
        note.changed(f"{len(group)} routers become one set: {', '.join(router.where for router in group)}")
        note.same(
            f"each leaves with its own address. As a pair two would share {group[0].source}, which is all that others "
            f"have to let in: `egress-router manifests {request.component} --pair NUMBER` (docs/pair.md)",
        )
    notes += note.notes
    mine = Problems()
    sources = tuple(router.source for router in (group[:1] if pair else group))
    destinations = SourceText(first.names["--destinations"], first.destinations)
    settings = {name: value for kept in request.kept for name, value in kept.settings.items()}
    if pair:
        network = ElectionNetwork.CLUSTER if first.pair_by_cluster else ElectionNetwork.EGRESS
        settings |= pair_settings(pair, network, request.name, request.namespace)
    complete = complete_request(
        request, sources, options.gateway or first.gateway, destinations, mine, first.http_port, settings
    )
    problems.errors += [named(problem, first, options.given) for problem in mine.errors]
    problems.warnings += [named(problem, first, options.given) for problem in mine.warnings]
    if complete is not None and not ours:
        notes += nowhere(complete, group)
    if complete is not None and ours and services:
        complete = _own_service(complete, found, services)
    return complete


def _own_service(
    request: ManifestRequest, found: list[ManifestObject], services: tuple[object, ...]
) -> ManifestRequest:
    """Return a request of ours with the Services of the files, where they are others than the one it writes."""
    from egress_router import __version__
    from egress_router.config.kubernetes_yaml import parse_documents
    from egress_router.errors import ConfigurationError
    from egress_router.manifests.plan import plan_manifests
    from egress_router.manifests.render import render_manifests

    try:
        text = render_manifests(plan_manifests(request, __version__))
    except ConfigurationError:
        return replace(request, services=services)  # type: ignore[arg-type]
    objects = [document.value for document in parse_documents(text)]
    written = [one for one in objects if one["kind"] == "Service" and one["metadata"]["name"] == request.name]
    same = len(written) == len(found) == 1 and written[0]["spec"] == {
        key: value for key, value in found[0].spec.items() if key in written[0]["spec"]
    }
    return request if same else replace(request, services=services)  # type: ignore[arg-type]


def named(problem: Problem, router: LegacyRouter, given: frozenset[str]) -> Problem:
    """Return a problem with the variable or field of the old object instead of an option of ``manifests``."""
    if problem.variable.removeprefix("--") in given:
        return problem
    return explained(replace(problem, variable=router.names.get(problem.variable, problem.variable)))


def _differences(group: list[LegacyRouter]) -> list[str]:
    differences = []
    for what, values in (
        ("kinds of router", [router.request.component for router in group]),
        ("destinations", [_meaning(router.destinations) for router in group]),
        ("EGRESS_GATEWAY", [router.gateway.split() for router in group]),
        ("EGRESS_HTTP_PROXY_PORT", [router.http_port or "8080" for router in group]),
        ("namespaces", [router.request.namespace for router in group]),
        (
            "egress interfaces",
            [(router.request.sdn, router.request.networks, router.request.parent_interface) for router in group],
        ),
    ):
        if any(value != values[0] for value in values):
            differences.append(what)
    return differences


def _meaning(text: str) -> list[tuple[str, ...]]:
    return [line.words for line in SourceText("", text).lines()]


def _fallback_alone(text: str) -> bool:
    return {len(words) for words in _meaning(text)} == {1}


def _told_apart(group: Sequence[LegacyRouter]) -> bool:
    """Return whether the addresses of a set are distinct; that they are not has been said already."""
    return not shared_addresses((router.where, router.source, router.pair) for router in group)
