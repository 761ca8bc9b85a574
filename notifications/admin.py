"""The admin's titles. Its pages are the queue's: durable_queue/admin."""

from django.contrib import admin

admin.site.site_header = "Notifier"
admin.site.site_title = "Notifier"
admin.site.site_url = None  # a link "View site" would lead to JSON
admin.site.index_title = "What is queued, what has run, who works"
