"""The backend that is Gemini in Google's cloud: `VertexAI("gemini-2.5-flash")`, with the project in the environment."""

from __future__ import annotations

import os
from typing import Any

from frontend.backends.gemini import Gemini
from frontend.errors import ProgramError


class VertexAI(Gemini):
    """System turns are sent as such; SGLang's backend says them in a turn of the user."""

    def __init__(self, model_name: str, safety_settings: Any = None, **arguments: Any) -> None:
        """`arguments` are those of `Gemini`, and `project`, `location` and `credentials` of the package's client.

        Without them the project is in the variable GCP_PROJECT_ID, the location in GCP_LOCATION, and the credentials are
        those that Google's tools leave on a machine. Raises `ProgramError` if there is no project.
        """
        project = arguments.pop("project", None) or os.environ.get("GCP_PROJECT_ID")
        if not project:
            raise ProgramError("VertexAI needs a project: give one, or set the environment variable GCP_PROJECT_ID")
        location = arguments.pop("location", None) or os.environ.get("GCP_LOCATION")
        super().__init__(model_name, safety_settings, vertexai=True, project=project, location=location, **arguments)
