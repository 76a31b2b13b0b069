"""Make the table of checkpoints."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table as the first version of the event store has it."""

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
    ]
