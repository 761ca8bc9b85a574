"""The appending program (https://fastapi.tiangolo.com/tutorial/background-tasks/#dependency-injection)."""

from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI

app = FastAPI()


def write_log(message: str) -> None:
    """Append to the log."""
    with open("log.txt", mode="a", encoding="utf-8") as log:
        log.write(message)


def get_query(background_tasks: BackgroundTasks, q: str | None = None) -> str | None:
    """Have the query written first, if there is one."""
    if q:
        background_tasks.add_task(write_log, f"found query: {q}\n")
    return q


@app.post("/send-notification/{email}")
async def send_notification(
    email: str, background_tasks: BackgroundTasks, q: Annotated[str | None, Depends(get_query)]
) -> dict[str, str]:
    """Answer, then write."""
    background_tasks.add_task(write_log, f"message to {email}\n")
    return {"message": "Message sent"}
