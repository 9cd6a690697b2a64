"""Prints the pods of workloads in manifests, each as a Pod that a controller would make, as a line of JSON with the file's name.

Arguments: the manifests. What cannot be read, or has no pods, is left out.
"""

import json
import os
import sys

import yaml

PATHS = {
    "Pod": [],
    "Deployment": ["spec", "template"],
    "StatefulSet": ["spec", "template"],
    "DaemonSet": ["spec", "template"],
    "ReplicaSet": ["spec", "template"],
    "ReplicationController": ["spec", "template"],
    "Job": ["spec", "template"],
    "CronJob": ["spec", "jobTemplate", "spec", "template"],
}

GROUPS = ("v1", "apps", "batch", "extensions")


class Loader(yaml.CSafeLoader):
    """As Kubernetes reads YAML: a date is a string."""


Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.CSafeLoader.construct_scalar)


def objects(path):
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = [document for document in yaml.load_all(file, Loader) if isinstance(document, dict)]
    except yaml.YAMLError:
        return []
    return [item for document in found for item in (document["items"] if document.get("kind") == "List" else [document])]


def pod_of(workload):
    template = workload
    for part in PATHS[workload["kind"]]:
        template = template[part]
    metadata = dict(template.get("metadata") or {})
    # A pod has only the annotations of its template; here those of the workload too, for what they ask for.
    annotations = {**(workload.get("metadata", {}).get("annotations") or {}), **(metadata.get("annotations") or {})}
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    metadata.setdefault("generateName", "web-")
    spec = dict(template["spec"])
    # What the controller of a StatefulSet adds.
    claims = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
    if claims:
        volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
        spec["volumes"] = [*(spec.get("volumes") or []), *volumes]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def without_nothing(value):
    """The API server leaves out what is nothing."""
    if isinstance(value, dict):
        return {name: without_nothing(member) for name, member in value.items() if member is not None}
    return [without_nothing(item) for item in value] if isinstance(value, list) else value


for path in sys.argv[1:]:
    for workload in objects(path):
        # Others have kinds of these names too.
        if workload.get("kind") not in PATHS or workload.get("apiVersion", "").split("/")[0] not in GROUPS:
            continue
        try:
            print(json.dumps([os.path.basename(path), without_nothing(pod_of(workload))]))
        except (KeyError, TypeError):
            # Not what it says it is.
            continue
