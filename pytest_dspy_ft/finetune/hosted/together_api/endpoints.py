"""Dedicated endpoints at Together: started for a result, and deleted whatever state they are in.

An endpoint and its one deployment have the name that we choose, so that one which a killed session asked for is found
by it. Names are unique there: two sessions, or a request that is carried out late, make no second one. A deployment
costs from its start by the minute; it stops by itself after some idle minutes, should nobody ever release it.
"""

from __future__ import annotations

import os
from typing import Any

from pytest_dspy_ft.errors import HostedError, LMError
from pytest_dspy_ft.finetune.hosted.client_errors import has_status
from pytest_dspy_ft.finetune.hosted.port import Deployment, NotServedYet, UnreadableReplyError

CONFIG = "TOGETHER_ENDPOINT_CONFIG"
"""Environment variable of an endpoint's configuration; no training setting: it changes nothing of what is trained."""
IDLE_MINUTES = 30
"""Without a request for so long an endpoint stops by itself: the least that Together takes."""
START_PATIENCE = 3600.0
"""Seconds for which a start is waited for: large models take a while, and GPUs may be short."""
_RELEASE_ROUNDS = 5
_READY, _FAILED, _STOPPED = ("DEPLOYMENT_STATE_" + word for word in ("READY", "FAILED", "STOPPED"))


class TogetherEndpoints:
    """The endpoints of one project.

    Args:
        client: Together's.
        project: Its id; None: the one that the key belongs to.
    """

    def __init__(self, client: Any, project: str | None) -> None:
        self._client = client
        self._known_project = project

    @property
    def _project(self) -> str:
        if self._known_project is None:
            told = self._client.whoami()
            if not isinstance(getattr(told, "type", None), str):
                raise UnreadableReplyError("it does not say whose key this is")
            project = getattr(told, "project", None)
            if project is None or not project.id:
                raise LMError("the key belongs to no single project: set TOGETHER_PROJECT_ID")
            self._known_project = str(project.id)
        return self._known_project

    def serve(self, model: str, deployment: Deployment) -> tuple[str, str]:
        """Start what lacks of an endpoint for a model, and give the name it is called by, and what releases it.

        Raises:
            NotServedYet: It is starting.
            HostedError: It failed; nothing of it is left.
        """
        endpoint = self._find(deployment.name) or self._create(deployment.name)
        mine = next((d for d in endpoint.deployments or [] if _last(d.name) == deployment.name), None)
        if mine is None:
            mine = self._deploy(endpoint.id, model, deployment.name)
        shown = self._client.endpoints.deployments.retrieve(mine.id, project_id=self._project, endpoint_id=endpoint.id)
        state, message = shown.status.state, " ".join(str(shown.status.message or "").split())
        if state == _FAILED:
            self.release(deployment.name)
            raise HostedError(
                f"Together could not start the endpoint {endpoint.name}: {message or 'it gives no reason'}"
            )
        if state == _STOPPED:
            self._scale(endpoint.id, mine.id, 1)
        if state != _READY:
            raise NotServedYet(
                f"endpoint {endpoint.name} is {state.removeprefix('DEPLOYMENT_STATE_').lower()}"
                f"{': ' + message if message else ''}",
                START_PATIENCE,
            )
        if not any(part.deployment_id == mine.id for part in endpoint.traffic_split or []):
            self._route(endpoint.id, [{"deployment_id": mine.id, "weight": 1.0}])
        return str(endpoint.name), f"{deployment.name} {endpoint.id}"

    def release(self, handle: str) -> bool:
        """Delete an endpoint and what runs on it, by what :meth:`serve` gave, or by its name alone.

        Returns:
            False where there is none.
        """
        name, _, id_ = handle.partition(" ")
        for _ in range(_RELEASE_ROUNDS):
            endpoint = self._known(id_) if id_ else self._find(name)
            if endpoint is None:
                return bool(id_) or not self._surely_gone(name)
            id_ = endpoint.id
            if endpoint.traffic_split:
                self._gone_is_fine(self._route, endpoint.id, [])
            for deployment in endpoint.deployments or []:
                self._gone_is_fine(self._scale, endpoint.id, deployment.id, 0)
                self._gone_is_fine(self._delete_deployment, endpoint.id, deployment.id)
            try:
                self._client.endpoints.delete(endpoint.id, project_id=self._project)
            except Exception as error:
                # A deployment that was still on its way when we looked.
                if not has_status(error, 400, 404, 409):
                    raise
            else:
                return True
        raise UnreadableReplyError(f"endpoint {name} cannot be deleted: something is started on it again and again")

    # --- one request each ---------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Any:
        listed = self._client.endpoints.list(project_id=self._project, filter=f'name:"{name}"')
        return next((endpoint for endpoint in listed if _last(endpoint.name) == name), None)

    def _known(self, id_: str) -> Any:
        try:
            return self._client.endpoints.retrieve(id_, project_id=self._project)
        except Exception as error:
            if has_status(error, 404):
                return None
            raise

    def _create(self, name: str) -> Any:
        try:
            return self._client.endpoints.create(project_id=self._project, name=name)
        except Exception as error:
            if has_status(error, 409):
                raise NotServedYet(f"endpoint {name} is there and not listed yet") from None
            raise

    def _surely_gone(self, name: str) -> bool:
        """True where nothing has a name: a list may lag, the name itself does not.

        An endpoint without deployments costs nothing: it is made, and deleted.

        Raises:
            UnreadableReplyError: Something has it that is not listed yet.
        """
        try:
            made = self._client.endpoints.create(project_id=self._project, name=name)
        except Exception as error:
            if has_status(error, 409):
                raise UnreadableReplyError(f"endpoint {name} is there and not listed yet") from None
            raise
        self._client.endpoints.delete(made.id, project_id=self._project)
        return True

    def _deploy(self, endpoint: str, model: str, name: str) -> Any:
        path, base = self._model(model)
        try:
            return self._client.endpoints.deployments.create(
                endpoint,
                project_id=self._project,
                name=name,
                model=path,
                config=self._config(base),
                autoscaling={"min_replicas": 1, "max_replicas": 1},
                inactive_timeout=IDLE_MINUTES,
            )
        except Exception as error:
            if has_status(error, 409):
                raise NotServedYet(f"the deployment of {name} is there and not listed yet") from None
            raise

    def _model(self, name: str) -> tuple[str, str]:
        """The path of a trained model, and the id of what its configurations are listed under."""
        for model in self._client.models.list(project_id=self._project):
            if _last(model.name) == _last(name):
                return f"projects/{model.project_id}/models/{model.id}", str(model.base_model_id or model.id)
        raise NotServedYet(f"the model {name} is not listed yet")

    def _config(self, base: str) -> str:
        """The path of the configuration to start: the one that is named, else the only one."""
        given = os.environ.get(CONFIG)
        if given and "/" in given:
            return given
        listed = list(self._client.models.configs.list(project_id=self._project, reference_model_id=base))
        chosen = [config for config in listed if not given or config.id == given]
        if len(chosen) != 1:
            names = ", ".join(config.id for config in listed) or "none"
            raise HostedError(
                f"the endpoint's configuration has to be named: set {CONFIG}, one of {names} (`tg models configs` "
                "tells which GPUs each takes); the model is trained and kept"
            )
        return f"projects/{chosen[0].project_id}/configs/{chosen[0].id}"

    def _route(self, endpoint: str, split: list[dict[str, Any]]) -> None:
        self._client.endpoints.update(
            endpoint, project_id=self._project, traffic_split=split, update_mask="trafficSplit"
        )

    def _scale(self, endpoint: str, deployment: str, replicas: int) -> None:
        self._client.endpoints.deployments.update(
            deployment,
            project_id=self._project,
            endpoint_id=endpoint,
            autoscaling={"min_replicas": replicas, "max_replicas": replicas},
            update_mask="autoscaling",
        )

    def _delete_deployment(self, endpoint: str, deployment: str) -> None:
        self._client.endpoints.deployments.delete(deployment, project_id=self._project, endpoint_id=endpoint)

    def _gone_is_fine(self, request: Any, *arguments: Any) -> None:
        try:
            request(*arguments)
        except Exception as error:
            if not has_status(error, 404):
                raise


def _last(name: Any) -> str:
    """The last part of a name that is qualified by what it is in: ``acme/endpoint/deployment``."""
    return str(name or "").rpartition("/")[2]
