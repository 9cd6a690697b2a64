"""Evaluates the admission policy as the API server would, and compares what it makes of pods with what `outrigger inject` does.

Arguments: the policy (its binding is beside it), the program, and files with manifests, whose workloads become pods that ask for
the sidecar. Prints a line for each version of Kubernetes whose schema both fit, and for each pod: `same`, `left alone: CONDITION`,
or what differs.

The expressions are evaluated by cel-python, and the patch is applied by jsonpatch. What Kubernetes adds to CEL stands here:
`JSONPatch{…}` makes an operation, `Object.…{…}` a mapping whose type has to be named after its place, as the API server
checks too; `indexOf` and `split` are those of its libraries. Static types and the limits of cost are not checked here.
"""

import json
import subprocess
import sys

import celpy
import celpy.celtypes as types
import jsonpatch
import kubernetes_validate
import yaml


class Loader(yaml.CSafeLoader):
    """As Kubernetes reads YAML: a date is a string, and so is a lone `=`."""


Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.CSafeLoader.construct_scalar)
Loader.add_constructor("tag:yaml.org,2002:value", yaml.CSafeLoader.construct_scalar)


class Made(types.MapType):
    """What `Object.…{…}` makes."""

    path = ""


class Type(types.MapType):
    """`Object`, and each name below it."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def get(self, name, default=None):
        return Type(f"{self.path}.{name}")

    __getitem__ = get

    def __contains__(self, name):
        return True

    def __call__(self, fields):
        made = Made(fields or {})
        made.path = self.path
        for name, value in made.items():
            for item in value if isinstance(value, types.ListType) else [value]:
                if isinstance(item, Made) and item.path != f"{self.path}.{name}":
                    raise TypeError(f"{item.path} stands at {self.path}.{name}")
        return made


def json_patch(fields):
    """`JSONPatch{…}`: it has no other members than these."""
    unknown = set(map(str, fields)) - {"op", "path", "from", "value"}
    if unknown:
        raise TypeError(f"JSONPatch has no {unknown}")
    return types.MapType(fields)


def index_of(items, item):
    return types.IntType(list(items).index(item) if item in items else -1)


def split(text, separator):
    return types.ListType([types.StringType(part) for part in str(text).split(str(separator))])


FUNCTIONS = {"indexOf": index_of, "split": split}


class Policy:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            spec = yaml.load(file, Loader)["spec"]
        self.environment = celpy.Environment()
        self.conditions = [(one["name"], self.program(one["expression"])) for one in spec["matchConditions"]]
        self.variables = [(one["name"], self.program(one["expression"])) for one in spec["variables"]]
        self.mutations = [self.program(one["jsonPatch"]["expression"]) for one in spec["mutations"]]

    def program(self, expression):
        return self.environment.program(self.environment.compile(expression), functions=FUNCTIONS)

    def not_met(self, pod):
        """The first condition that a pod does not meet."""
        context = {"object": celpy.json_to_cel(pod)}
        return next((name for name, program in self.conditions if not program.evaluate(context)), None)

    def patched(self, pod):
        """Each mutation sees what those before it have made, and so do its variables."""
        for mutation in self.mutations:
            context = {"object": celpy.json_to_cel(pod), "variables": types.MapType()}
            for name, program in self.variables:
                context["variables"][types.StringType(name)] = program.evaluate(context)
            # They are there for mutations only.
            context |= {"Object": Type("Object"), "JSONPatch": json_patch}
            patch = json.loads(json.dumps(mutation.evaluate(context), cls=celpy.CELJSONEncoder))
            pod = jsonpatch.apply_patch(pod, patch)
        return pod


def run(program, command, pod):
    """What the program makes of a pod; nothing if it refuses."""
    done = subprocess.run([program, command], input=json.dumps(pod), capture_output=True, text=True, check=False)
    return yaml.load(done.stdout, Loader) if done.returncode == 0 else None


def whole(value):
    """A document without what is null or empty: the API server does not keep it."""
    if isinstance(value, dict):
        members = {name: whole(member) for name, member in value.items()}
        return {name: member for name, member in members.items() if member not in (None, [], {})}
    return [whole(item) for item in value] if isinstance(value, list) else value


def is_whole(document):
    """Whether the API server would take a document at all."""
    try:
        kubernetes_validate.validate(document, "1.37", strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError, KeyError):
        return False
    return True


def pods(path):
    """The pods of all workloads, each with its name."""
    with open(path, encoding="utf-8-sig") as file:
        found = [document for document in yaml.load_all(file, Loader) if document]
    for document in found:
        for item in document["items"] if document.get("kind") == "List" else [document]:
            if not is_whole(item):
                continue
            template = item
            while "spec" in template and "containers" not in template["spec"]:
                below = template["spec"].get("jobTemplate") or template["spec"].get("template")
                if not below:
                    break
                template = below
            if not template.get("spec", {}).get("containers"):
                continue
            metadata = whole(template.get("metadata") or {})
            metadata["name"] = item["metadata"].get("name", "made-later")
            metadata.setdefault("annotations", {}).setdefault("outrigger.dev/inject", "true")
            yield metadata["name"], {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole(template["spec"])}


def verdict(policy, program, pod):
    missed = policy.not_met(pod)
    if missed:
        return f"left alone: {missed}"
    patched, injected = policy.patched(pod), run(program, "inject", pod)
    if patched != injected:
        return f"DIFFERENT\n  policy: {json.dumps(patched, sort_keys=True)}\n  inject: {json.dumps(injected, sort_keys=True)}"
    if run(program, "uninject", patched) != pod:
        return "DIFFERENT once it is taken out"
    if policy.not_met(patched) is None:
        return "DIFFERENT: it would be done again"
    return "same"


def judged(paths):
    """Whether the versions of Kubernetes that have such policies would take these files."""
    for version, group in [("1.34", "v1beta1"), ("1.35", "v1beta1"), ("1.36", "v1"), ("1.37", "v1")]:
        for path in paths:
            with open(path, encoding="utf-8") as file:
                document = yaml.load(file, Loader)
            document["apiVersion"] = f"admissionregistration.k8s.io/{group}"
            # Raises what is wrong, also where there is no such kind.
            kubernetes_validate.validate(document, version, strict=True)
        yield f"Kubernetes {version} takes {group}"


def main(path, program, *manifests):
    for line in judged([path, path.replace("policy.yaml", "binding.yaml")]):
        print(line)
    policy = Policy(path)
    for manifest in manifests:
        for name, pod in pods(manifest):
            print(f"{manifest.rsplit('/', 1)[-1]} {name}: {verdict(policy, program, pod)}")


main(*sys.argv[1:])
