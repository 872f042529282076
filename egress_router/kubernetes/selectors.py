"""Label selectors of Kubernetes: parsed strictly, matched against labels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Notes what is wrong: field, value, message, what would be right.
Report = Callable[[str, object, str, str], None]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression: ``operator`` is In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the labels meet it. NotIn and DoesNotExist are met where the label is absent."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        return (value is not None) == (self.operator == "Exists")


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements have to be met; without any it matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether it selects something with these labels."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def query(self) -> str:
        """Return it as the query parameter ``labelSelector``."""
        return ",".join(_query(requirement) for requirement in self.requirements)


EVERYTHING = Selector()


def _query(requirement: Requirement) -> str:
    values = ",".join(sorted(requirement.values))
    return {
        "In": f"{requirement.key} in ({values})",
        "NotIn": f"{requirement.key} notin ({values})",
        "Exists": requirement.key,
    }.get(requirement.operator, f"!{requirement.key}")


_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def parse_selector(field: str, raw: object, report: Report) -> Selector:
    """Return the selector in a field of an object; what is wrong with it goes to ``report``."""
    if not isinstance(raw, Mapping):
        report(field, raw, "is not a label selector", "a mapping with matchLabels or matchExpressions")
        return Selector()
    found: list[Requirement] = []
    labels = raw.get("matchLabels") or {}
    if isinstance(labels, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in labels.items()):
        found += [Requirement(key, "In", frozenset({value})) for key, value in sorted(labels.items())]
    else:
        report(f"{field}.matchLabels", labels, "is not a mapping of texts", "such as {env: shop}")
    expressions = raw.get("matchExpressions") or []
    if not isinstance(expressions, list):
        report(f"{field}.matchExpressions", expressions, "is not a list", "of key, operator and values")
        expressions = []
    for number, expression in enumerate(expressions):
        made = _requirement(f"{field}.matchExpressions[{number}]", expression, report)
        if made is not None:
            found.append(made)
    for name in raw.keys() - {"matchLabels", "matchExpressions"}:
        report(f"{field}.{name}", raw[name], "is not a part of a label selector", "matchLabels or matchExpressions")
    return Selector(tuple(found))


def _requirement(field: str, raw: object, report: Report) -> Requirement | None:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("key"), str) or not raw["key"]:
        report(field, raw, "has no key", "such as {key: env, operator: In, values: [shop]}")
        return None
    operator, values = raw.get("operator"), raw.get("values") or []
    if operator not in _OPERATORS:
        report(f"{field}.operator", operator, "is not an operator", ", ".join(_OPERATORS))
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        report(f"{field}.values", values, "is not a list of texts", "such as [shop]")
        return None
    if (operator in ("In", "NotIn")) != bool(values):
        report(
            f"{field}.values", values, f"does not go with {operator}", "values with In and NotIn, and only with these"
        )
        return None
    return Requirement(raw["key"], str(operator), frozenset(values))
