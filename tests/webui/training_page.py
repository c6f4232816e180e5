"""The training tab in a browser."""

LONG = 1200
"""Seconds for what a slow machine computes."""
TAB = "Personalized Residuals"
PANEL = "gradioApp().querySelector('#persres_training_panel')"


def show(page):
    page.open()
    page.tab("tabs", TAB)
    page.wait(f"return {PANEL}.querySelector('.persres-part') && true")


def drop(page, paths):
    field = page.driver.find_element("css selector", "#persres_training_files")
    field.send_keys("\n".join(map(str, paths)))


def views(page, count):
    page.wait(
        "return gradioApp().querySelectorAll('#persres_training_shown .persres-view').length == arguments[0]",
        count,
    )


def fill(page, **values):
    for name, value in values.items():
        page.set(f"persres_training_{name}", value)


def train(page, said):
    page.click("#persres_training_start")
    page.wait("return gradioApp().querySelector('#persres_training_said').innerText.includes(arguments[0])", said)


def press(page, action):
    page.wait(f"return {PANEL}.querySelector('.persres-part-buttons .persres-do-{action}') && true", seconds=LONG)
    page.click(f"#persres_training_panel .persres-part-buttons .persres-do-{action}")


def state(page, *states):
    return page.wait(
        f"const found = {PANEL}.querySelector('h3 .persres-state').className.split('persres-state-')[1];"
        "return arguments[0].includes(found) && found",
        states,
        seconds=LONG,
    )
