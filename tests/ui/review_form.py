"""The form of a review in Prefect's two UIs, as a person uses it."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.ui.environment import Environment


class Form:
    """The form of a suspended run, as a person uses it."""

    def __init__(self, environment: Environment, page: Page, ui: str, run: str) -> None:
        page.goto(environment.address(ui, f"/runs/flow-run/{run}"))
        if ui == "v2":
            page.locator("button:has(svg.lucide-ellipsis-vertical)").last.click()
            page.get_by_role("menuitem", name="Resume").click()
        else:
            page.get_by_role("button", name="Resume").first.click()
        self.page, self.ui = page, ui
        self.box = page.locator(".p-modal__card" if ui == "v1" else "[role=dialog]")

    def request(self, number: int) -> Locator:
        """The fields of a request."""
        kind = ".schema-form-property-object .schema-form-property-object" if self.ui == "v1" else "[data-slot=card]"
        return self.box.locator(kind).nth(number - 1)

    def choose(self, number: int, choice: str) -> None:
        """Choose in the drop-down list of a request."""
        if self.ui == "v1":
            # By mouse, each list of this UI closes at once in headless Chromium, on Prefect's own pages as well.
            self.request(number).locator("button.p-select-button__control").press("ArrowDown")
            self.page.locator(".p-select-option").get_by_text(choice, exact=True).click()
        else:
            self.request(number).get_by_label("Select Decision").click()
            self.page.get_by_role("option", name=choice, exact=True).click()

    def write(self, number: int, text: str) -> None:
        """Write another prompt for the re-take of a request."""
        self.request(number).locator("textarea").first.fill(text)

    def write_name(self, who: str) -> None:
        """Write who decides."""
        self.box.locator("textarea").first.fill(who)

    def submit(self, who: str) -> None:
        """Write who decides, and send the form."""
        self.write_name(who)
        self.box.get_by_role("button", name="Submit" if self.ui == "v1" else "Resume", exact=True).click()
        expect(self.box).to_be_hidden()
