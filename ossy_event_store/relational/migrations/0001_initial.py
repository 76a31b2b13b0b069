"""Create the tables of the checkpoints and of the outbox."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """The tables as the first version of the event store has them."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                (
                    "key",
                    models.CharField(max_length=128, primary_key=True, serialize=False),
                ),
                ("subscription", models.CharField(max_length=255)),
                ("aggregate_id", models.TextField(blank=True)),
                ("position", models.BigIntegerField()),
                ("claim", models.CharField(blank=True, max_length=32)),
                ("updated", models.DateTimeField()),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("key", models.CharField(max_length=64, unique=True)),
                ("stream", models.CharField(max_length=64)),
                ("event_id", models.TextField()),
                ("aggregate_id", models.TextField()),
                ("type", models.TextField()),
                ("event", models.TextField()),
                ("created", models.DateTimeField()),
                ("state", models.CharField(default="waiting", max_length=9)),
                ("tries", models.PositiveIntegerField(default=0)),
                ("failed", models.DateTimeField(null=True)),
                ("error", models.TextField(blank=True)),
                ("discarded", models.DateTimeField(null=True)),
                ("discarded_by", models.TextField(blank=True)),
                ("reason", models.TextField(blank=True)),
            ],
            options={
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["stream", "id"], name="ossy_outbox_stream"),
                    models.Index(
                        fields=["state", "tries", "id"], name="ossy_outbox_state"
                    ),
                ],
            },
        ),
    ]
