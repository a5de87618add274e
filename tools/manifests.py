"""Makes the Helm chart's templates from the kustomize base, so that an object is written once.

    python tools/manifests.py           write k8s/chart/{templates,providers} and values.schema.json
    python tools/manifests.py --check   say what is not as it would be written; exit 1

The base's comments carry what only Helm needs (kustomize drops them):

    key: value # helm: EXPRESSION          the value becomes {{ EXPRESSION }}
    key: # helm-yaml: EXPRESSION           the block below becomes EXPRESSION as YAML; the key goes when it is empty
    key: | # helm-text: EXPRESSION         the text below becomes EXPRESSION as YAML text
    # helm-with: KEY EXPRESSION            key and block from EXPRESSION, where it is not empty
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parents[1] / "k8s"
NAMESPACE = "peerpods-system"
WHEN = {
    "namespace.yaml": 'ne .Release.Namespace (include "peerpods.namespace" .)',
    "networkpolicies.yaml": ".Values.networkPolicies.enabled",
}
"""Files that are left out of the chart's result unless this holds."""
_MARK = re.compile(r"^(?P<key>\s*(?:- )?[\w.-]+:)(?P<value>.*?) # helm(?P<how>-yaml|-text|): (?P<what>.+)$")
_WITH = re.compile(r"^(?P<indent>\s*)# helm-with: (?P<key>\S+) (?P<what>.+)$")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _replacement(found: re.Match[str], indent: int) -> list[str]:
    key, what = found["key"], found["what"]
    if found["how"] == "":
        return [f"{key} {{{{ {what} }}}}"]
    pad = " " * indent
    if found["how"] == "-text":
        return [f"{key} |", f"{pad}  {{{{- toYaml ({what}) | nindent {indent + 2} }}}}"]
    return [
        f"{pad}{{{{- with {what} }}}}",
        key,
        f"{pad}  {{{{- toYaml . | nindent {indent + 2} }}}}",
        f"{pad}{{{{- end }}}}",
    ]


def template(text: str) -> str:
    """The chart's template for one file of the base."""
    lines: list[str] = []
    skip: int | None = None
    for line in text.replace("{{", '{{ "{{" }}').splitlines():
        if skip is not None and (not line.strip() or _indent(line) > skip):
            continue
        skip = None
        indent = _indent(line)
        if found := _MARK.match(line):
            lines += _replacement(found, indent)
            if found["how"]:
                skip = indent
        elif found := _WITH.match(line):
            pad, what = found["indent"], found["what"]
            lines += [
                f"{pad}{{{{- with {what} }}}}",
                f"{pad}{found['key']}:",
                f"{pad}  {{{{- toYaml . | nindent {len(pad) + 2} }}}}",
                f"{pad}{{{{- end }}}}",
            ]
        else:
            lines.append(line)
    return "\n".join(lines).replace(NAMESPACE, '{{ include "peerpods.namespace" . }}') + "\n"


def _strict(crd: Any) -> Any:
    """A CRD's schema as one that names what it does not know, instead of dropping it."""
    if isinstance(crd, list):
        return [_strict(item) for item in crd]
    if not isinstance(crd, dict):
        return crd
    made = {
        key: _strict(value) for key, value in crd.items() if not key.startswith("x-kubernetes-") and key != "format"
    }
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def schema() -> dict[str, Any]:
    """values.schema.json: strict, with the PeerPodConfig's spec as its CRD has it."""
    crd = yaml.safe_load((K8S / "base/crds/peerpodconfigs.yaml").read_text())
    spec = _strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    name = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
    amounts = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
    names = {"type": "array", "items": _object({"name": name}, required=["name"])}
    toleration = spec["properties"]["tolerations"]["items"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart peerpods",
        **_object(
            {
                "global": {"type": "object", "description": "Set by Helm for subcharts; not used."},
                "image": _object(
                    {
                        "repository": {"type": "string", "pattern": "^[a-z0-9][a-zA-Z0-9._:/@-]*$"},
                        "tag": {"type": "string", "pattern": "^([a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?$"},
                        "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                        "pullSecrets": names,
                    }
                ),
                "namespace": {**name, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
                "provider": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
                "config": {
                    "type": "object",
                    "description": "Environment variables, such as LIBVIRT_URI.",
                    "additionalProperties": False,
                    "patternProperties": {"^[A-Z][A-Z0-9_]*$": {"type": ["string", "number", "boolean"]}},
                },
                "peerPodConfig": spec,
                "controllers": _object(
                    {
                        "replicas": {"type": "integer", "minimum": 1, "maximum": 5},
                        "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
                        "tolerations": {"type": "array", "items": toleration},
                        "resources": _object({"requests": amounts, "limits": amounts}),
                    }
                ),
                "networkPolicies": _object({"enabled": {"type": "boolean"}}),
                "uninstall": _object(
                    {
                        "timeout": {"type": "integer", "minimum": 10, "maximum": 3600},
                        "force": {"type": "boolean"},
                    }
                ),
            }
        ),
    }


def templates() -> dict[Path, str]:
    """What the chart's folder must have, by path."""
    made: dict[Path, str] = {}
    base = K8S / "base"
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    for name in listed:
        text = f"{{{{- /* Made by tools/manifests.py from k8s/base/{name}; do not edit. */ -}}}}\n"
        body = template((base / name).read_text())
        if name in WHEN:
            body = f"{{{{- if {WHEN[name]} }}}}\n{body}{{{{- end }}}}\n"
        made[K8S / "chart/templates" / name.replace("/", "-")] = text + body
    for overlay in sorted((K8S / "overlays").iterdir()):
        if (overlay / "config.env").exists():
            made[K8S / "chart/providers" / f"{overlay.name}.yaml"] = _provider(overlay)
    made[K8S / "chart/values.schema.json"] = json.dumps(schema(), indent=1) + "\n"
    return made


def _provider(overlay: Path) -> str:
    text = (overlay / "config.env").read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in text if "=" in line and not line.startswith("#"))
    values = {"provider": pairs.pop("CLOUD_PROVIDER"), "config": pairs}
    head = f"# Made by tools/manifests.py from k8s/overlays/{overlay.name}/config.env; do not edit.\n"
    return (
        head + "".join(f"{line}\n" for line in text if line.startswith("#")) + yaml.safe_dump(values, sort_keys=False)
    )


def main() -> int:
    """Write, or compare."""
    made = templates()
    own = {K8S / "chart/templates" / name for name in ("_helpers.tpl", "NOTES.txt", "configmap.yaml", "uninstall.yaml")}
    there = {p for f in ("templates", "providers") for p in (K8S / "chart" / f).glob("*") if p.is_file()} - own
    if "--check" in sys.argv[1:]:
        wrong = sorted(p for p in made.keys() | there if p not in made or not p.exists() or p.read_text() != made[p])
        for path in wrong:
            print(f"{path.relative_to(K8S.parent)} is not what tools/manifests.py writes: run it", file=sys.stderr)
        return 1 if wrong else 0
    for path in there - made.keys():
        path.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
