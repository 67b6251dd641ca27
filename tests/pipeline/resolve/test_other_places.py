"""Models and texts in a bucket and on the hub, which may be away, gated or offline."""

import pytest

from pipeline.errors import SourceNotAllowed, SourceNotFound, SourceUnreachable
from pipeline.sources import SourceAccess, open_source
from tests.hub import COMMIT, Repository, cache_repository, model_repository, serve_hub
from tests.pipeline.resolve.place import MODEL, Place


class TestOtherPlaces:
    def test_s3_that_is_away(self, place: Place) -> None:
        from pipeline.storage import S3Options
        from tests.ports import free_ports

        options = S3Options(
            endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", access_key="a", secret_key="b"
        )
        place.access = SourceAccess(allowed_roots=(place.root,), s3=options)
        place.refusal(SourceUnreachable, MODEL, model={"source": "s3://bucket/model"})

    def test_hub(self, place: Place) -> None:
        """Against a stand-in for the hub."""
        with serve_hub() as hub:
            hub.models["org/tiny"] = model_repository(place.model)
            hub.datasets["org/texts"] = Repository({"train.jsonl": b"{}"})
            place.access = SourceAccess(
                allowed_roots=(place.root,), hub_endpoint=hub.endpoint, hub_cache_dir=place.root / "cache"
            )
            texts = {"source": "hub:org/texts", "sequence_length": 32}
            pins = place.resolve(model={"source": "hub:org/tiny"}, calibration=texts)
            assert pins.of(MODEL).source == f"hub:org/tiny@{COMMIT}"
            assert {file.path for file in pins.of(MODEL).files} == {
                path.name for path in place.model.iterdir()
            }
            assert pins.of("spec.calibration.source").source == f"hub:org/texts@{COMMIT}"
            asked = [path.rsplit("/", 1)[-1] for path in hub.paths() if "/resolve/" in path]
            header = "model.safetensors"  # never its weights
            small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
            assert {*asked} == small | {header}
            hub.models["org/tiny"].gated = True
            place.refusal(SourceNotAllowed, MODEL, model={"source": "hub:org/tiny"})
            place.refusal(
                SourceNotFound, "spec.calibration.source", calibration=texts | {"source": "hub:org/no"}
            )

    def test_offline_hub(self, place: Place) -> None:
        cache_repository(place.root / "cache", "org/tiny", model_repository(place.model))
        place.access = SourceAccess(
            allowed_roots=(place.root,), hub_cache_dir=place.root / "cache", hub_offline=True
        )
        pins = place.resolve(model={"source": "hub:org/tiny"})
        assert pins.of(MODEL).source == f"hub:org/tiny@{COMMIT}"

    def test_a_store_that_fails_while_a_config_is_read(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.sources.hub.BUSY_RETRIES", 0)
        with serve_hub() as hub:
            repository = hub.models["org/tiny"] = model_repository(place.model)
            place.access = SourceAccess(
                allowed_roots=(place.root,), hub_endpoint=hub.endpoint, hub_cache_dir=place.root / "cache"
            )
            source = open_source("hub:org/tiny", place.access)
            source.names()
            hub.status = 503
            monkeypatch.setattr("pipeline.resolve.resolve.open_source", lambda *args, **kwargs: source)
            assert "HTTP 503" in place.refusal(SourceUnreachable, MODEL, model={"source": "hub:org/tiny"})
            assert repository.files
