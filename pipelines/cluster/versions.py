"""Pipeline versions on a cluster: created once through Kubernetes, and never changed."""

from pathlib import Path
from typing import Any

import yaml

from eager_llm.core.errors import UserError

GROUP = "pipelines.kubeflow.org"
API_VERSION = "v2beta1"


def submit_version(file: Path, namespace: str) -> list[str]:
    """Create the objects of a compiled manifest that are not on the cluster yet.

    Returns:
        What became of each object, a line each.

    Raises:
        UserError: a version of that name is there with another content; the cluster does not know
            versions, or refuses.
    """
    from kubernetes import client, config

    try:
        config.load_kube_config()
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise UserError(f"no cluster: {error}; set KUBECONFIG") from None
    api = client.CustomObjectsApi()
    objects = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return [_create(api, manifest, namespace) for manifest in objects]


def version_name(file: Path) -> str:
    """Return the name of the version in a compiled manifest.

    Raises:
        UserError: there is no such file, or no version in it.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such manifest; run: make manifests")
    for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if manifest and manifest.get("kind") == "PipelineVersion":
            return str(manifest["metadata"]["name"])
    raise UserError(f"{file}: holds no PipelineVersion")


def _create(api: Any, manifest: dict[str, Any], namespace: str) -> str:
    """Create an object unless it is on the cluster, and return what became of it."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    kind = manifest["kind"]
    name = manifest["metadata"]["name"]
    resource = (GROUP, API_VERSION, namespace, f"{kind.lower()}s")
    try:
        api.create_namespaced_custom_object(*resource, manifest)
        return f"{kind} {name} created"
    except HTTPError as error:
        raise UserError(f"the Kubernetes API does not answer: {error}") from None
    except ApiException as error:
        if error.status == 404:
            raise UserError(
                f"namespace {namespace} knows no {kind} ({GROUP}/{API_VERSION}); Kubeflow "
                "Pipelines 2.14 and later has it, installed with its Kubernetes-native API"
            ) from None
        if error.status != 409:
            raise UserError(
                f"{kind} {name}: refused: {error.status} {error.reason} {error.body or ''}"
            ) from None
    existing = api.get_namespaced_custom_object(*resource, name)
    differing = _differing_fields(manifest["spec"], existing.get("spec", {}))
    if kind == "PipelineVersion" and differing:
        raise UserError(
            f"PipelineVersion {name} is there already with another {', '.join(differing)}. A "
            "version never changes: runs refer to it. Compile it anew (`make manifests`), which "
            "names it by its content, or delete the other one"
        )
    return f"{kind} {name} is there already, unchanged"


def _differing_fields(spec: dict[str, Any], existing: dict[str, Any]) -> list[str]:
    return sorted(name for name, value in spec.items() if existing.get(name) != value)
