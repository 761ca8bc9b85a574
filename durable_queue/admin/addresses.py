"""Addresses of the admin that people, or programs, have made up: what can name nothing is not found, and asks no database."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import IntegerField, QuerySet
from django.http import Http404, HttpRequest, HttpResponse

from durable_queue.task.text import storable

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

DIGITS = 18  # that a number may have, and surely fit into 64 bits


class CheckedAddresses(ModelAdmin):
    """A page that raises Http404 for a key that no row can have, and for a query that holds NUL: PostgreSQL takes neither."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row with this key."""
        self.check_key(object_id)
        return super().get_object(request, object_id, from_field)

    def check_key(self, key: str) -> None:
        """Raise Http404 for what is no key."""
        field = self.opts.pk
        if isinstance(field, IntegerField):
            is_key = key.isascii() and key.isdecimal() and len(key) <= DIGITS
        else:
            is_key = 0 < len(key) <= (field.max_length or 0) and storable(key) == key
        if not is_key:
            raise Http404(f"No {self.opts.verbose_name} can have this key")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what the list's own filters ask for. Other lookups would find what no database can compare."""
        names = {getattr(each, "parameter_name", each) for each in self.list_filter}
        return lookup.removesuffix("__exact") in names

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list."""
        if any("\0" in text for name, values in request.GET.lists() for text in (name, *values)):
            raise Http404("No text holds NUL")
        return super().changelist_view(request, extra_context)

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> HttpResponse | None:
        """Run an action on the rows that were selected."""
        for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
            self.check_key(key)
        return super().response_action(request, queryset, *args, **kwargs)
