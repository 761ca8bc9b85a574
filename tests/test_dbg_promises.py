from tests.test_django_q_promises import *
def test_dbg(run_cluster):
    iter_id = async_iter(ADD, [(n, 1) for n in range(5)])
    async_task(ADD, 3, 4, hook=promised_tasks.hook)
    import subprocess
    t = timezone.now()
    print(run_cluster("--workers", "3"))
    print(timezone.now() - t)
    print(list(Task.objects.values()))
    print(list(Attempt.objects.values()))
    print(result(iter_id))
    import django_q.tests
    assert 0
