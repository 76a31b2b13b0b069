from django.db import models


class Loan(models.Model):
    book = models.CharField(max_length=100)
    reader = models.CharField(max_length=100)

    def __str__(self):
        return f"{self.book} to {self.reader}"
