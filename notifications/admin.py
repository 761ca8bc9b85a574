"""The admin's name. Its pages are those of the queue: durable_queue/admin."""

from django.contrib import admin

admin.site.site_header = "Notifier"
admin.site.site_title = "Notifier"
admin.site.site_url = None  # "View site" would lead to JSON
admin.site.index_title = "What is queued, what has run, who works"
