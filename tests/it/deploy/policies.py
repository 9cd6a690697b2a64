"""Whether the network policies of a rendered kustomization let traffic through.

    policies.py FILE FLOW…    yes or no for each flow, a line each

A flow is `FROM>TO:PORT/PROTOCOL`, where FROM and TO are the namespace and the labels of a pod, `NAMESPACE{name=value,…}`, an
address for what is no pod, or `elsewhere` for what is anywhere else. A namespace has the label of its own name. Only what our policies say is read: anything
else is an error, not a no.
"""

import ipaddress
import re
import sys

sys.dont_write_bytecode = True
import rendered  # noqa: E402


def end(text):
    """A namespace and the labels of a pod; or an address, of which no policy of ours speaks but as a peer."""
    if text == "elsewhere":
        return None
    if re.fullmatch(r"[0-9.]+", text):
        return ipaddress.ip_address(text)
    namespace, labels = re.fullmatch(r"([a-z-]+)\{(.*)\}", text).groups()
    return namespace, dict(pair.split("=") for pair in labels.split(",") if pair)


def is_peer(peer, own_namespace, other):
    if set(peer) - {"podSelector", "namespaceSelector"} and set(peer) != {"ipBlock"} or "except" in peer.get("ipBlock", {}):
        raise NotImplementedError(f"this evaluator reads no such peer: {peer}")
    if "ipBlock" in peer:
        return not isinstance(other, (tuple, type(None))) and other in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    if not isinstance(other, tuple):
        return False
    namespace, labels = other
    if "namespaceSelector" in peer:
        in_namespace = rendered.selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        in_namespace = namespace == own_namespace
    return in_namespace and rendered.selects(peer.get("podSelector", {}), labels)


def admits(rule, way, own_namespace, other, port):
    peers = rule.get("from" if way == "Ingress" else "to")
    ports = rule.get("ports")
    by_port = not ports or any((one["port"], one.get("protocol", "TCP")) == port for one in ports)
    return by_port and (not peers or any(is_peer(peer, own_namespace, other) for peer in peers))


def side_allows(policies, way, own, other, port):
    """One side of a flow: without a policy that selects the pod, everything is let through."""
    if not isinstance(own, tuple):
        return True
    namespace, labels = own
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == namespace
        and way in policy["spec"]["policyTypes"]
        and rendered.selects(policy["spec"]["podSelector"], labels)
    ]
    rules = [rule for spec in selecting for rule in spec.get(way.lower(), [])]
    return not selecting or any(admits(rule, way, namespace, other, port) for rule in rules)


def main(path, *flows):
    policies = [one for one in rendered.manifests.documents(path) if one["kind"] == "NetworkPolicy"]
    for flow in flows:
        source, target, number, protocol = re.fullmatch(r"(.+)>(.+):(\d+)/(TCP|UDP)", flow).groups()
        source, target, port = end(source), end(target), (int(number), protocol)
        allowed = side_allows(policies, "Egress", source, target, port) and side_allows(policies, "Ingress", target, source, port)
        print("yes" if allowed else "no")


main(*sys.argv[1:])
