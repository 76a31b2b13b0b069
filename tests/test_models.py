"""Models without tables do not stand in the way of Django's own commands."""

import json

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.db import connection

from tests.support.admin import NOT_ON_DJONGO
from tests.support.commands import run

pytestmark = [pytest.mark.versions, NOT_ON_DJONGO]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "options", [{}, {"use_base_manager": True}, {"use_natural_primary_keys": True}]
)
def test_a_site_is_dumped_and_loaded_as_without_the_app(options, tmp_path):
    Group.objects.create(name="kept")
    file = tmp_path / "dump.json"
    run("dumpdata", output=str(file), **options)
    dumped = json.loads(file.read_text())
    assert {"auth.group"} < {row["model"] for row in dumped}
    run("loaddata", str(file))


@pytest.mark.django_db
def test_the_models_have_no_rows():
    for model in apps.get_app_config("ossy_event_store").get_models():
        assert not model.objects.exists()
        assert not model._base_manager.filter(pk="x").exists()
        with pytest.raises(model.DoesNotExist):
            model.objects.get(pk="x")


@pytest.mark.django_db
def test_the_other_commands_and_a_serialized_rollback_pass_the_models_over():
    for command in ("inspectdb", "sqlflush", "makemigrations"):
        options = {"check_changes": True} if command == "makemigrations" else {}
        out, _ = run(command, **options)
        assert "ossy_event_store_stream" not in out
    assert '"ossy_event_store.' not in connection.creation.serialize_db_to_string()
