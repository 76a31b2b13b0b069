"""The page makes roles and users, and the server refuses everybody else."""

import pytest

from tests.support.roles import calls, guarded_marks, refused

pytestmark = [pytest.mark.faults, *guarded_marks]


def test_a_server_with_authentication_refuses_who_does_not_log_in(guarded):
    with guarded.started.members[0].client() as client, refused():
        client[guarded.name].eventstore.find_one()


def test_the_page_makes_five_roles_and_a_user_of_each():
    roles = [role["role"] for role in calls("createRole")]
    assert roles == [
        "eventStoreAppender",
        "eventStoreFollower",
        "eventStoreReader",
        "eventStoreOperator",
        "eventStoreMigrator",
    ]
    users = [user["roles"] for user in calls("createUser")]
    assert sorted(users) == sorted([role] for role in roles)
