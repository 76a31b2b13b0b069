"""Token authentication of Django REST framework, whose tokens are names of users."""

from django.contrib.auth.models import User
from rest_framework.authentication import TokenAuthentication


class Tokens(TokenAuthentication):
    def authenticate_credentials(self, key):
        return User.objects.get(username=key), key
