"""Judges manifests as a cluster would: one process for all of them, since it is slow to start.

Arguments: files with the sidecar in them, each with `=original` behind it if their documents are to be compared with those
of another file instead. Prints what is wrong, a line for each, and nothing if all is well.
"""

import sys

import kubernetes_validate
import yaml
from kubernetes_validate import utils


class Loader(yaml.CSafeLoader):
    """As Kubernetes reads YAML: a date is a string, and so is a lone `=`."""


Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.CSafeLoader.construct_scalar)


def documents(path):
    with open(path, encoding="utf-8-sig") as file:
        found = [document for document in yaml.load_all(file, Loader) if document]
    return [item for document in found for item in (document["items"] if document.get("kind") == "List" else [document])]


def template_of(document):
    """Where a workload describes its pods."""
    template = document
    while document["kind"] != "Pod" and "containers" not in template["spec"]:
        template = template["spec"].get("jobTemplate") or template["spec"]["template"]
    return template


def quantity(text):
    """A quantity of CPU or memory, as a number."""
    units = {"m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    digits = text.rstrip("".join(units))
    return float(digits) * units.get(text[len(digits) :], 1)


def unusable(container, volumes):
    """What would keep this sidecar from starting."""
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    for name, wanted in resources.get("requests", {}).items():
        if name in limits and quantity(wanted) > quantity(limits[name]):
            yield f"asks for more {name} than its limit"
    mounts = container.get("volumeMounts", [])
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"there is no volume {mount['name']}"
    for variable in container.get("env", []):
        path = variable.get("value", "")
        if variable["name"].endswith("_FILE") and not any(path.startswith(mount["mountPath"] + "/") for mount in mounts):
            yield f"{variable['name']} is on no mount: {path}"


def restricted(container):
    """The restricted pod security standard, for one container: what of it does not hold."""
    context = container.get("securityContext", {})
    rules = {
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "runAsUser": context.get("runAsUser") not in (None, 0),
        "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        "seccompProfile": context.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
        "privileged": not context.get("privileged"),
        "hostPort": all("hostPort" not in port for port in container.get("ports", [])),
    }
    return [rule for rule, holds in rules.items() if not holds]


def latest():
    """The three latest minor versions of Kubernetes."""
    return list(dict.fromkeys(map(utils.major_minor, utils.all_versions())))[-3:]


def faults(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message[:200]}"
    except kubernetes_validate.SchemaNotFoundError:
        # Nothing of Kubernetes' own.
        pass


def main(arguments):
    versions = latest()
    wrong, judged, sidecars = [], 0, 0
    for argument in arguments:
        path, _, original = argument.partition("=")
        if original:
            if documents(path) != documents(original):
                wrong.append(f"{path}: not the same documents as {original}")
            continue
        for document in documents(path):
            if "kind" not in document:
                continue
            judged += 1
            # generateName is a name to come.
            for version in versions:
                wrong.extend(f"{path}: Kubernetes {version}: {fault}" for fault in faults(document, version))
            if document["kind"] in ("ConfigMap", "Secret", "Service", "ServiceAccount", "Namespace") or not document["apiVersion"].split("/")[0] in ("v1", "apps", "batch"):
                continue
            template = template_of(document)
            pod = template["spec"]
            volumes = [one["name"] for one in pod.get("volumes", [])]
            volumes += [claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])]
            names = [c["name"] for c in pod["containers"] + (pod.get("initContainers") or [])]
            if len(names) != len(set(names)):
                wrong.append(f"{path}: two containers have one name: {names}")
            marked = "outrigger.dev/status" in (template.get("metadata", {}).get("annotations") or {})
            if marked != any(name.startswith("outrigger") for name in names):
                wrong.append(f"{path}: it is marked as injected and has no sidecar, or the other way round")
            ports = {}
            for container in pod["containers"] + (pod.get("initContainers") or []):
                for port in container.get("ports", []):
                    if ports.setdefault(port["containerPort"], container["name"]) != container["name"]:
                        wrong.append(f"{path}: two containers have port {port['containerPort']}")
                if container["name"].startswith("outrigger"):
                    sidecars += 1
                    wrong.extend(f"{path}: {container['name']} is not restricted: {rule}" for rule in restricted(container))
                    wrong.extend(f"{path}: {container['name']}: {fault}" for fault in unusable(container, volumes))
    print("\n".join(wrong + [f"judged {judged} documents with {sidecars} sidecars against {', '.join(versions)}"]))


if __name__ == "__main__":
    main(sys.argv[1:])
