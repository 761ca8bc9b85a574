"""The replacing program (https://fastapi.tiangolo.com/tutorial/background-tasks/)."""

from fastapi import BackgroundTasks, FastAPI

app = FastAPI()


def write_notification(email: str, message: str = "") -> None:
    """Replace the log."""
    with open("log.txt", mode="w", encoding="utf-8") as log:
        log.write(f"notification for {email}: {message}")


@app.post("/send-notification/{email}")
async def send_notification(email: str, background_tasks: BackgroundTasks) -> dict[str, str]:
    """Answer, then write."""
    background_tasks.add_task(write_notification, email, message="some notification")
    return {"message": "Notification sent in the background"}
