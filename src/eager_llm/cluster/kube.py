"""The few calls to Kubernetes that a step makes, through its official client."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eager_llm.cluster.job_watch import ApiUnavailable
from eager_llm.core.errors import UserError

GROUP = "ray.io"
VERSION = "v1"
PLURAL = "rayjobs"
TEMPLATE_KEY = "rayjob.yaml"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5, 30)  # seconds to connect, to be answered

# A time of a log as (date and seconds, nanoseconds), both text of one length, so that they compare.
Timestamp = tuple[str, str]


class KubeClient:
    """RayJobs, pods, their logs, and a ConfigMap of one namespace.

    Raises:
        UserError: there is no cluster to talk to.
    """

    def __init__(self) -> None:
        from kubernetes import client

        self.namespace = _load_config()
        configuration = client.Configuration.get_default_copy()
        configuration.retries = False  # the watch repeats what fails
        api = client.ApiClient(configuration)
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    def template(self, name: str) -> str:
        """Return the job of a ConfigMap, as YAML.

        Raises:
            UserError: there is none, or it holds none.
            ApiUnavailable: there was no answer.
        """
        config_map = self._call(
            self._core.read_namespaced_config_map,
            name,
            self.namespace,
        )
        data = config_map.data if config_map else None
        text = (data or {}).get(TEMPLATE_KEY)
        if not text:
            raise UserError(
                f"ray.template = {name}: namespace {self.namespace} has no ConfigMap of that name "
                f"with {TEMPLATE_KEY}; charts/eager-llm-platform makes it"
            )
        return str(text)

    def job(self, name: str) -> dict[str, Any] | None:
        """Return a RayJob, or None.

        Raises:
            ApiUnavailable: there was no answer.
        """
        job = self._call(self._objects.get_namespaced_custom_object, *self._jobs(), name)
        return dict(job) if job else None

    def create(self, job: dict[str, Any]) -> bool:
        """Create a RayJob, and return whether there was none of its name.

        Raises:
            UserError: the cluster refuses it, or does not know the kind.
            ApiUnavailable: there was no answer.
        """
        from kubernetes.client import ApiException

        create = self._objects.create_namespaced_custom_object
        try:
            created = self._call(create, *self._jobs(), job, refusals=(400, 422))
        except ApiException as error:
            if error.status == 409:
                return False
            raise UserError(
                f"the cluster refuses RayJob {job['metadata']['name']}: {_message(error)}"
            ) from None
        if created is None:
            raise UserError("the cluster knows no RayJob (ray.io/v1); install the KubeRay operator")
        return True

    def delete(self, name: str) -> None:
        """Delete a RayJob, and with it what KubeRay made for it; one that is gone already is fine.

        Raises:
            ApiUnavailable: there was no answer.
        """
        self._call(
            self._objects.delete_namespaced_custom_object,
            *self._jobs(),
            name,
            propagation_policy="Background",
        )

    def pods(self, selector: str) -> list[Any]:
        """Return the client's pods whose labels match a selector.

        Raises:
            ApiUnavailable: there was no answer.
        """
        pods = self._call(self._core.list_namespaced_pod, self.namespace, label_selector=selector)
        return list(pods.items) if pods else []

    def log(self, pod: str, after: Timestamp) -> list[tuple[Timestamp, str]]:
        """Return the lines of a pod's log that are later than a time, each with its own time.

        Raises:
            ApiUnavailable: there was no answer.
        """
        text = self._call(
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            timestamps=True,
            empty=(400,),  # its container has not started yet
        )
        lines = []
        for line in (text or "").splitlines():
            time, _, message = line.partition(" ")
            timestamp = log_timestamp(time)
            if timestamp > after:
                lines.append((timestamp, message))
        return lines

    def _jobs(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    def _call(
        self,
        method: Callable[..., Any],
        *arguments: Any,
        refusals: tuple[int, ...] = (),
        empty: tuple[int, ...] = (),
        **options: Any,
    ) -> Any:
        """Return what the API answers; None where nothing is there.

        Args:
            method: of the client.
            arguments: of the method, as `options`.
            refusals: statuses that are raised as they are, beside that of a conflict.
            empty: statuses that mean that nothing is there, beside 404.

        Raises:
            ApiUnavailable: no answer, or one that may be another the next time.
            ApiException: one of the refusals.
            UserError: the service account lacks the right.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return method(*arguments, _request_timeout=TIMEOUT, **options)
        except ApiException as error:
            if error.status == 404 or error.status in empty:
                return None
            if error.status in (401, 403):
                raise UserError(f"the service account may not do that: {_message(error)}") from None
            if error.status == 409 or error.status in refusals:
                raise
            raise ApiUnavailable(
                f"the Kubernetes API answered {error.status}: {_message(error)}"
            ) from None
        except (HTTPError, OSError) as error:
            raise ApiUnavailable(
                f"the Kubernetes API does not answer ({type(error).__name__})"
            ) from None


def _load_config() -> str:
    """Configure the client by the pod's service account or a kubeconfig; return the namespace.

    Raises:
        UserError: there is neither.
    """
    from kubernetes import config

    try:
        config.load_incluster_config()
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except config.ConfigException:
        pass
    try:
        config.load_kube_config()
        _, context = config.list_kube_config_contexts()
    except config.ConfigException as error:
        raise UserError(
            "ray.cluster = rayjob: neither in a pod with a service account nor with a kubeconfig "
            f"({error})"
        ) from None
    return str(context["context"].get("namespace", "default"))


def log_timestamp(text: str) -> Timestamp:
    """Return a time of a log such that times compare; logs leave trailing zeros out."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


def _message(error: Any) -> str:
    """Return what the API says of an error, or its HTTP reason."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
