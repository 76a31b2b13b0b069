"""Fixtures of the tests of projections."""

from tests.support.projections import changed as changed
from tests.support.projections import events as events
from tests.support.projections import lent as lent
from tests.support.projections import loans as loans
from tests.support.projections import nights as nights
from tests.support.projections import writer as writer
