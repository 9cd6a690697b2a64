"""Judges what kustomizations render to.

    rendered.py judge NAME=FILE…   what is wrong, a line for each, and at last what was judged; each NAME is a kustomization
    rendered.py json FILE          the documents, as a list; what Secrets hold is text

Everything is held against Kubernetes' own schemas, and each pod against the restricted pod security standard; within a
kustomization, what one document says of another must be so.
"""

import base64
import json
import pathlib
import sys

# Writes nothing beside the sources.
sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "inject"))

import manifests  # noqa: E402

# The groups of Kubernetes itself beside those under k8s.io: their schemas must be there.
KUBERNETES = ("", "apps", "autoscaling", "batch", "policy")

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = {"RuntimeDefault", "Localhost"}


def is_of_kubernetes(document):
    group = document["apiVersion"].rpartition("/")[0]
    return group in KUBERNETES or group.endswith(".k8s.io")


def pods_of(document):
    """The pod templates of a document: none or one."""
    if document["kind"] == "Pod":
        return [document]
    if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "ReplicationController"):
        return [manifests.template_of(document)]
    return []


def containers_of(pod):
    return (pod["spec"].get("initContainers") or []) + pod["spec"]["containers"]


def security(pod):
    """What of the restricted pod security standard does not hold."""
    spec, whole = pod["spec"], pod["spec"].get("securityContext", {})
    yield from (f"{name} is on" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    for volume in spec.get("volumes", []):
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is a {kinds}"
    yield from (f"sysctl {one['name']}" for one in whole.get("sysctls", []) if one["name"] not in SYSCTLS)
    if whole.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess is on"
    for container in containers_of(pod):
        own = container.get("securityContext", {})
        said = lambda name: own.get(name, whole.get(name))  # noqa: E731
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": said("runAsNonRoot") is True,
            "runAsUser": said("runAsUser") != 0,
            "seccompProfile": (said("seccompProfile") or {}).get("type") in SECCOMP,
            "drop ALL": "ALL" in own.get("capabilities", {}).get("drop", []),
            "capabilities added": set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": all(not port.get("hostPort") for port in container.get("ports", [])),
            "hostProcess": not own.get("windowsOptions", {}).get("hostProcess"),
        }
        for options in (own.get("seLinuxOptions", {}), whole.get("seLinuxOptions", {})):
            rules["seLinuxOptions"] = options.get("type") in SELINUX and not options.get("user") and not options.get("role")
        for profile in (own.get("appArmorProfile"), whole.get("appArmorProfile")):
            rules["appArmorProfile"] = not profile or profile["type"] in ("RuntimeDefault", "Localhost")
        yield from (f"{container['name']} is not restricted: {rule}" for rule, holds in rules.items() if not holds)


def selects(selector, labels):
    """Whether a label selector selects these."""
    operators = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, _: value is not None,
        "DoesNotExist": lambda value, _: value is None,
    }
    expressions = selector.get("matchExpressions", [])
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        operators[one["operator"]](labels.get(one["key"]), one.get("values", [])) for one in expressions
    )


def labels_of(pod):
    return pod.get("metadata", {}).get("labels") or {}


def texts_in(value):
    """Every text within a document."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts_in(inner)


def ports_of(container):
    return {port.get("name"): port["containerPort"] for port in container.get("ports", [])}


def of_pod(pod, named):
    """What of a pod refers to nothing. `named` tells whether there is a document of this kind and name."""
    spec = pod["spec"]
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in pod.get("claims", [])}
    sources = []
    for volume in spec.get("volumes", []):
        for kind, source, name in (("Secret", "secret", "secretName"), ("ConfigMap", "configMap", "name")):
            if source in volume and not volume[source].get("optional"):
                sources.append((kind, volume[source][name]))
    taken = {}
    for container in containers_of(pod):
        name, ports = container["name"], ports_of(container)
        for number in ports.values():
            if taken.setdefault(number, name) != name:
                yield f"{name} and {taken[number]} both have port {number}"
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            for way in ("httpGet", "tcpSocket"):
                port = container.get(kind, {}).get(way, {}).get("port")
                if isinstance(port, str) and port not in ports:
                    yield f"{name}: {kind} is at {port}, which is none of its ports"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name}: there is no volume {mount['name']}"
            if "subPath" in mount:
                yield f"{name}: {mount['mountPath']} has a subPath: it would never be updated"
        for variable in container.get("env", []):
            for kind, reference in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                found = variable.get("valueFrom", {}).get(reference)
                if found and not found.get("optional"):
                    sources.append((kind, found["name"]))
        resources = container.get("resources", {})
        for wanted in ("cpu", "memory"):
            if wanted not in resources.get("requests", {}):
                yield f"{name} requests no {wanted}"
        if "memory" not in resources.get("limits", {}):
            yield f"{name} has no limit of memory"
        yield from (f"{name}: {fault}" for fault in manifests.unusable(container, volumes))
    yield from (f"{kind} {name} is not there" for kind, name in sources if not named(kind, name))


def of_selectors(document, pods):
    """What a document selects must be there, and have the ports that it names."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Service" and spec.get("selector"):
        selector, wanted = {"matchLabels": spec["selector"]}, [port.get("targetPort", port["port"]) for port in spec["ports"]]
    elif kind == "PodDisruptionBudget":
        selector, wanted = spec["selector"], []
    elif kind == "NetworkPolicy":
        selector, wanted = spec["podSelector"], []
        rules = [rule for way in ("ingress", "egress") for rule in spec.get(way, [])]
        peers = [peer for rule in rules for peer in rule.get("from", []) + rule.get("to", [])]
        for peer in peers:
            if set(peer) == {"podSelector"} and not any(selects(peer["podSelector"], labels_of(pod)) for pod in pods):
                yield f"there are no pods that are {peer}"
    elif kind == "PodMonitor":
        selector, wanted = spec["selector"], [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
    else:
        return
    selected = [pod for pod in pods if selects(selector, labels_of(pod))]
    if not selected:
        yield f"it selects no pod: {selector}"
    for pod in selected:
        ports = {}
        for container in containers_of(pod):
            ports |= ports_of(container)
        yield from (f"{port} is no port of the pods it selects" for port in wanted if port not in [*ports, *ports.values()])


# What older clusters do not have in the version that is written here; its own manifest says so.
SINCE = {"MutatingAdmissionPolicy": (1, 36), "MutatingAdmissionPolicyBinding": (1, 36)}


# Secrets that people make by the words of the README.
BY_HAND = {"deploy/kubernetes/webhook/base": ["outrigger-webhook-tls"]}


def judge(name, documents, versions):
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    # What makes a Secret names it: a Certificate, the rights of a Job.
    makers = {text for document in documents if not pods_of(document) for text in texts_in(document)}
    by_hand = BY_HAND.get(name, ())
    named = lambda kind, text: (kind, text) in there or (kind == "Secret" and text in [*makers, *by_hand])  # noqa: E731
    pods = []
    for document in documents:
        for pod in pods_of(document):
            pods.append({**pod, "claims": document["spec"].get("volumeClaimTemplates", [])})
    for document in documents:
        what = f"{name}: {document['kind']}/{document['metadata']['name']}"
        faults = []
        first = SINCE.get(document["kind"], (0, 0))
        known = [version for version in versions if tuple(map(int, version.split("."))) >= first]
        for version in known if is_of_kubernetes(document) else []:
            try:
                manifests.kubernetes_validate.validate(document, version, strict=True)
            except manifests.kubernetes_validate.ValidationError as error:
                faults.append(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message[:200]}")
            except manifests.kubernetes_validate.SchemaNotFoundError:
                faults.append(f"Kubernetes {version} knows no {document['kind']} of {document['apiVersion']}")
        if document["kind"] == "Namespace" and labels_of(document).get("pod-security.kubernetes.io/enforce") != "restricted":
            faults.append("it does not enforce the restricted pod security standard")
        for pod in pods_of(document):
            selector = document["spec"].get("selector", {})
            if "matchLabels" in selector and not selects(selector, labels_of(pod)):
                faults.append(f"its selector is not that of its pods: {selector}")
            faults += security(pod)
            faults += of_pod({**pod, "claims": document["spec"].get("volumeClaimTemplates", [])}, named)
        faults += of_selectors(document, pods)
        yield from (f"{what}: {fault}" for fault in faults)


def main(verb, *arguments):
    if verb == "json":
        documents = manifests.documents(arguments[0])
        for document in documents:
            if document["kind"] == "Secret":
                document["stringData"] = {name: base64.b64decode(value).decode() for name, value in document.pop("data").items()}
        print(json.dumps(documents))
        return
    versions = manifests.latest()
    wrong, counted, pods, unknown = [], 0, 0, set()
    for argument in arguments:
        name, _, path = argument.partition("=")
        documents = manifests.documents(path)
        counted += len(documents)
        pods += sum(len(pods_of(document)) for document in documents)
        unknown |= {document["kind"] for document in documents if not is_of_kubernetes(document)}
        wrong += judge(name, documents, versions)
    beside = f"; not Kubernetes' own, without a schema: {', '.join(sorted(unknown))}" if unknown else ""
    print("\n".join([*wrong, f"judged {counted} documents with {pods} pods against {', '.join(versions)}{beside}"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
