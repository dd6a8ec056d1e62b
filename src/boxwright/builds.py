"""The builds a receipt tells of: one for each plan of an engine.

A receipt describes the build its engine was made by at its top, with the evidence for it.
Each plan added later has a record under ``plans``, by fingerprint, with the same fields.
A receipt of one build looks as it always did, and so does one that an older Boxwright
wrote. What the fields mean: docs/reference/receipt.md.

Receipts come from files, so nothing here trusts their form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Receipt = dict[str, Any]

# What a receipt says of the file rather than of one build.
_OF_FILE = ("schema", "sources", "plans")
# What of a build is about the bytes of its plan, and goes with them.
_OF_PLAN = ("fingerprint", "plan_sha256")


@dataclass(frozen=True)
class Build:
    """One build.

    Attributes:
        key: Its fingerprint among the added ones; ``None`` for the one at the top.
        record: Everything the receipt says of it: ``build``, ``created``, ``environment``,
            evidence.
    """

    key: str | None
    record: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was asked for: backend, precision, batch; empty where it does not say."""
        facts = self.record.get("build")
        return facts if isinstance(facts, dict) else {}

    @property
    def fingerprint(self) -> str | None:
        """Of its plan; ``None`` where it has none."""
        return self.key or _text(self.facts.get("fingerprint"))

    @property
    def plan_sha256(self) -> str | None:
        """Of its plan as it was built; ``None`` where that is not known."""
        return _text(self.facts.get("plan_sha256"))


def builds(receipt: Mapping[str, Any]) -> list[Build]:
    """Every build, the one added last first and the one the engine was made by at the end."""
    return [*reversed(_added(receipt)), _top(receipt)]


def newest(receipt: Mapping[str, Any], earlier: Mapping[str, Any]) -> Build:
    """The build that an earlier receipt does not tell of, or the one at the top."""
    known = builds(earlier)
    return next((build for build in builds(receipt) if build not in known), _top(receipt))


def build_of(receipt: Mapping[str, Any], fingerprint: str) -> Build | None:
    """The build that made a plan, where the receipt knows it."""
    return next((b for b in builds(receipt) if b.fingerprint == fingerprint), None)


def receipt_of(receipt: Mapping[str, Any], key: str | None) -> Receipt:
    """A receipt that tells of one build only; of the one at the top for an unknown key."""
    build = next((b for b in _added(receipt) if b.key == key), None) or _top(receipt)
    return {**_of_file(receipt), **build.record}


def with_build(receipt: Mapping[str, Any], record: Mapping[str, Any], fingerprint: str) -> Receipt:
    """The receipt with one build more, or another for that fingerprint.

    Of a build that is replaced nothing stays: its evidence was about another plan.
    """
    top, added = _top(receipt), _added(receipt)
    if top.fingerprint == fingerprint:
        return _put_together(receipt, Build(None, record), added)
    others = [build for build in added if build.key != fingerprint]
    return _put_together(receipt, top, [*others, Build(fingerprint, record)])


def without_builds(receipt: Mapping[str, Any], fingerprints: Collection[str]) -> Receipt:
    """The receipt without these builds.

    Where the one at the top goes, the one added first takes its place. Where none is left,
    it stays for what it says of how to build, without a plan.
    """
    top, added = _top(receipt), _added(receipt)
    added = [build for build in added if build.key not in fingerprints]
    if top.fingerprint in fingerprints:
        if added:
            top, *added = [Build(None, added[0].record), *added[1:]]
        else:
            top = Build(None, _without_plan(top.record))
    return _put_together(receipt, top, added)


def merged(receipt: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> Receipt:
    """The receipt with the builds of others; of one fingerprint, the first is kept."""
    known = {build.fingerprint for build in builds(receipt)}
    result: Receipt = dict(receipt)
    for other in others:
        for build in reversed(builds(other)):
            if build.fingerprint is not None and build.fingerprint not in known:
                known.add(build.fingerprint)
                result = with_build(result, build.record, build.fingerprint)
    return result


def with_sections(
    receipt: Mapping[str, Any], key: str | None, sections: Mapping[str, Any]
) -> Receipt:
    """The receipt with fields replaced in the record of one build."""
    top, added = _top(receipt), _added(receipt)
    if not any(build.key == key for build in added):
        return {**receipt, **sections}
    changed = [
        Build(build.key, {**build.record, **sections}) if build.key == key else build
        for build in added
    ]
    return _put_together(receipt, top, changed)


def unvouched(receipt: Mapping[str, Any], fingerprint: str) -> Receipt:
    """The receipt without a word on the content of one plan, which somebody replaced."""
    build = build_of(receipt, fingerprint)
    if build is None or build.plan_sha256 is None:
        return dict(receipt)
    facts = {name: value for name, value in build.facts.items() if name != "plan_sha256"}
    return with_sections(receipt, build.key, {"build": facts})


def _top(receipt: Mapping[str, Any]) -> Build:
    return Build(None, {name: v for name, v in receipt.items() if name not in _OF_FILE})


def _added(receipt: Mapping[str, Any]) -> list[Build]:
    plans = receipt.get("plans")
    return [
        Build(str(key), record)
        for key, record in (plans.items() if isinstance(plans, dict) else ())
        if isinstance(record, dict)
    ]


def _of_file(receipt: Mapping[str, Any]) -> Receipt:
    return {name: receipt[name] for name in ("schema", "sources") if name in receipt}


def _put_together(receipt: Mapping[str, Any], top: Build, added: Iterable[Build]) -> Receipt:
    plans = {str(build.key): dict(build.record) for build in added}
    return {**_of_file(receipt), **top.record, **({"plans": plans} if plans else {})}


def _without_plan(record: Mapping[str, Any]) -> Receipt:
    facts = record.get("build")
    if not isinstance(facts, dict):
        return dict(record)
    kept = {name: value for name, value in facts.items() if name not in _OF_PLAN}
    return {**record, "build": {**kept, "fingerprint": None}}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
