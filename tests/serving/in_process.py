"""The application as the service builds it, in this process, so that its parts can be broken."""

from starlette.testclient import TestClient

from serving.answers import Answers
from serving.decoder import Decoder
from serving.middleware import AdmissionMiddleware, RequestIdMiddleware
from serving.routes import new_app
from serving.settings import ServiceSettings
from serving.store import Store


class Service:
    def __init__(self, bundle, features=None, **settings):
        self.settings = ServiceSettings(
            **{"bundle": "-", "deadline_ms": 20000, "features_ms": 20000, **settings}
        )
        self.decoder = Decoder(bundle, self.settings)
        self.store = Store(features, 20, self.settings) if features else None
        self.app = new_app()
        self.app.state.answers = Answers({"first": self.decoder}, self.store, self.settings)
        self.app.add_middleware(AdmissionMiddleware, settings=self.settings)
        self.app.add_middleware(RequestIdMiddleware)

    def __enter__(self):
        self.client = TestClient(self.app, raise_server_exceptions=False).__enter__()
        return self

    def __exit__(self, *error):
        self.client.__exit__(*error)
        self.app.state.answers.close()
        self.decoder.close()

    def ask(self, path="/recommend", **body):
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()
