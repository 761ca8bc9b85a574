"""The queue's own app: what runs, keeps and prunes tasks of any kind. It knows django-q2, and nothing of notifications."""
