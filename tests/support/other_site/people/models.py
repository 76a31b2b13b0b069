"""A user without a user name."""

from django.contrib.auth.models import AbstractBaseUser, PermissionsMixin
from django.db import models


class Person(AbstractBaseUser, PermissionsMixin):
    address = models.EmailField(unique=True)
    is_staff = True
    is_active = True

    USERNAME_FIELD = "address"
