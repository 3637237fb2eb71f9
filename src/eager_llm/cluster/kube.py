"""The few calls to Kubernetes that a step makes, through its official client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eager_llm.cluster.job_watch import Away
from eager_llm.core.errors import UserError

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PATIENCE = (5, 30)  # seconds to connect, to be answered
Stamp = tuple[str, str]


class Kube:
    """RayJobs, pods, their logs, and a ConfigMap of one namespace.

    Raises:
        UserError: there is no cluster to talk to.
    """

    def __init__(self) -> None:
        from kubernetes import client, config

        try:
            config.load_incluster_config()
            self.namespace = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except config.ConfigException:
            try:
                config.load_kube_config()
                _, context = config.list_kube_config_contexts()
            except config.ConfigException as error:
                raise UserError(
                    f"ray.cluster = rayjob: neither in a pod with a service account nor with a kubeconfig ({error})"
                ) from None
            self.namespace = context["context"].get("namespace", "default")
        made = client.Configuration.get_default_copy()
        made.retries = False  # a look that fails is repeated by whoever looks
        api = client.ApiClient(made)
        self._objects, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)

    def template(self, name: str) -> str:
        """Return the job of a ConfigMap, as YAML.

        Raises:
            UserError: there is none, or it holds none.
        """
        found = self._ask(
            lambda: self._core.read_namespaced_config_map(
                name, self.namespace, _request_timeout=PATIENCE
            )
        )
        text = (found.data or {}).get("rayjob.yaml") if found else None
        if not text:
            raise UserError(
                f"ray.template = {name}: namespace {self.namespace} has no ConfigMap of that name with rayjob.yaml; "
                "charts/eager-llm-platform makes it"
            )
        return str(text)

    def job(self, name: str) -> dict[str, Any] | None:
        """Return a RayJob, or None."""
        where = (GROUP, VERSION, self.namespace, PLURAL, name)
        found = self._ask(
            lambda: self._objects.get_namespaced_custom_object(*where, _request_timeout=PATIENCE)
        )
        return dict(found) if found else None

    def create(self, job: dict[str, Any]) -> bool:
        """Create a RayJob, and return whether there was none of its name.

        Raises:
            UserError: the cluster refuses it, or does not know the kind.
        """
        from kubernetes.client import ApiException

        where = (GROUP, VERSION, self.namespace, PLURAL)
        try:
            self._ask(
                lambda: self._objects.create_namespaced_custom_object(
                    *where, job, _request_timeout=PATIENCE
                ),
                (422, 400),
            )
        except _Missing:
            raise UserError(
                "the cluster knows no RayJob (ray.io/v1); install the KubeRay operator"
            ) from None
        except ApiException as error:
            if error.status == 409:
                return False
            raise UserError(
                f"the cluster refuses RayJob {job['metadata']['name']}: {_message(error)}"
            ) from None
        return True

    def delete(self, name: str) -> None:
        """Delete a RayJob, and with it what KubeRay made for it; one that is gone already is fine."""
        where = (GROUP, VERSION, self.namespace, PLURAL, name)
        self._ask(
            lambda: self._objects.delete_namespaced_custom_object(
                *where, propagation_policy="Background", _request_timeout=PATIENCE
            )
        )

    def pods(self, selector: str) -> list[Any]:
        """Return the pods that a selector of labels meets."""
        found = self._ask(
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=PATIENCE
            )
        )
        return list(found.items) if found else []

    def log(self, pod: str, after: Stamp) -> list[tuple[Stamp, str]]:
        """Return the lines of a pod's log that were written later than a stamp, each with its own."""
        text = self._ask(
            lambda: self._core.read_namespaced_pod_log(
                pod, self.namespace, timestamps=True, _request_timeout=PATIENCE
            ),
            quiet=(400,),  # not started yet
        )
        lines = (line.partition(" ") for line in (text or "").splitlines())
        stamped = ((stamp_of(when), said) for when, _, said in lines)
        return [(stamp, said) for stamp, said in stamped if stamp > after]

    def _ask(
        self,
        question: Callable[[], Any],
        refused: tuple[int, ...] = (),
        quiet: tuple[int, ...] = (),
    ) -> Any:
        """Return what the API answers; None where nothing is there.

        Raises:
            Away: no answer, or one that may be another the next time.
            UserError: the service account lacks the right.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return question()
        except ApiException as error:
            if error.status == 404 and not refused:
                return None
            if error.status == 404:
                raise _Missing from None
            if error.status in quiet:
                return None
            if error.status in (401, 403):
                raise UserError(f"the service account may not do that: {_message(error)}") from None
            if error.status in (*refused, 409):
                raise
            raise Away(f"the Kubernetes API answered {error.status}: {_message(error)}") from None
        except (HTTPError, OSError) as error:
            raise Away(f"the Kubernetes API does not answer ({type(error).__name__})") from None


class _Missing(Exception):
    pass


def stamp_of(text: str) -> Stamp:
    """Return a time of a log such that stamps compare as their times do: trailing zeros are left out there."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


def _message(error: Any) -> str:
    import json

    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
