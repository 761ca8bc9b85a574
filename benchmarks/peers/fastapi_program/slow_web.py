"""FastAPI's BackgroundTasks with slow jobs: https://fastapi.tiangolo.com/tutorial/background-tasks/."""

import slow
from fastapi import BackgroundTasks, FastAPI

app = FastAPI()


@app.post("/slow/{job}/{seconds}/{number}")
async def post(job: str, seconds: float, number: int, background_tasks: BackgroundTasks) -> dict[str, str]:
    """Answer, then do the job."""
    background_tasks.add_task(slow.JOBS[job], number, seconds)
    return {"message": "Queued"}
