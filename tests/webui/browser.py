"""Headless Chromium on a running WebUI, driven by selenium."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --window-size=1400,1500 "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
# no request leaves the machine: fonts and scripts from elsewhere fail at once
FLAGS.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
PATIENCE = 600
"""Seconds for what a page shows; a machine that does other things as well takes long for it."""


def missing() -> str | None:
    """Why no browser can be had here; None if one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install selenium"
    if not any(map(shutil.which, CHROMIUM)):
        return f"no browser is installed: none of {', '.join(CHROMIUM)} is in the PATH"
    if not shutil.which("chromedriver"):
        return "chromedriver is not in the PATH: install the one of the browser's version"
    return None


class Browser:
    def __init__(self, url: str, profile: Path):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = next(filter(None, map(shutil.which, CHROMIUM)))
        options.page_load_strategy = "eager"
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        # as if its window were in front, whatever others there are: without, nothing is ever focused
        self.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        self.driver.set_script_timeout(PATIENCE)
        self.driver.set_page_load_timeout(PATIENCE)
        self.url = url

    def close(self) -> None:
        self.driver.quit()

    def recover(self) -> None:
        """One window without a dialog, whatever an earlier test left open."""
        from selenium.common.exceptions import NoAlertPresentException

        first, *others = self.driver.window_handles
        for other in others:
            self.driver.switch_to.window(other)
            self.driver.close()
        self.driver.switch_to.window(first)
        with contextlib.suppress(NoAlertPresentException):
            self.driver.switch_to.alert.dismiss()

    def open(self) -> Browser:
        """The page, when its cards can be searched and sorted, which is the last thing to come."""
        self.driver.get(self.url)
        self.wait("return 'txt2img_residuals' in extraNetworksApplyFilter")
        return self

    def run(self, script: str, *values):
        """Run JavaScript in the page; `values` are its `arguments`."""
        return self.driver.execute_script(script, *values)

    def wait(self, script: str, *values, seconds: float = PATIENCE):
        """What the script returns once that is true."""
        from selenium.common.exceptions import JavascriptException, TimeoutException

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # such as null.value before there is an element; a browser that has gone is no reason to wait
            with contextlib.suppress(JavascriptException, TimeoutException):
                if found := self.run(script, *values):
                    return found
            time.sleep(0.3)
        raise AssertionError(f"It did not happen: {script} {json.dumps(values)}\n{self.errors()}")

    def errors(self) -> list[str]:
        """What the page complained about since the last time, but for files from other hosts."""
        lines = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [line for line in lines if self.url in line and "favicon" not in line]

    # -- the WebUI's parts

    def value(self, elem_id: str):
        return self.run(f"return gradioApp().querySelector('#{elem_id} textarea, #{elem_id} input').value")

    def set(self, elem_id: str, value) -> None:
        self.run(
            f"const input = gradioApp().querySelector('#{elem_id} textarea, #{elem_id} input');"
            "input.value = arguments[0]; updateInput(input);",
            value,
        )

    def tab(self, tabs: str, label: str) -> None:
        """Choose the tab with this label in the row of tabs with this id."""
        self.run(
            f"[...gradioApp().querySelectorAll('#{tabs} > .tab-nav > button')]"
            ".find((button) => button.textContent.trim().toLowerCase() == arguments[0]).click()",
            label.lower(),  # hosts write them differently
        )

    def click(self, selector: str) -> None:
        self.run("gradioApp().querySelector(arguments[0]).click()", selector)

    def cards(self) -> dict[str, dict]:
        """name -> what is seen on each visible card of txt2img's residuals, in their order."""
        return self.run(
            """
            const cards = [...gradioApp().querySelectorAll("#txt2img_residuals_cards > .card")];
            return Object.fromEntries(cards.filter((card) => card.offsetParent).map((card) => [card.dataset.name, {
                text: card.innerText, classes: card.className,
                picture: card.querySelector("img")?.naturalWidth ?? null}]));
            """
        )

    def click_card(self, name: str, tab: str = "txt2img", part: str = "") -> None:
        self.run(
            f"const card = [...gradioApp().querySelectorAll('#{tab}_residuals_cards > .card')]"
            ".find((card) => card.dataset.name == arguments[0]);"
            "(arguments[1] ? card.querySelector(arguments[1]) : card).click()",
            name,
            part,
        )

    def refresh_cards(self) -> None:
        """As the button does it, after files changed; the page is there when the mark on the old one is gone."""
        self.run("gradioApp().querySelector('#txt2img_residuals_pane').dataset.old = 'yes'")
        self.click("#txt2img_residuals_extra_refresh")
        self.wait("return !gradioApp().querySelector('#txt2img_residuals_pane').dataset.old")
