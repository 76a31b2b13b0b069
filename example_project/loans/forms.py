from django import forms
from nanoid import generate


class ApplyForm(forms.Form):
    """
    The applicant's data, and ``key``, which identifies this copy of the form.

    The key becomes the id of the event. A second click on the button, or a browser
    that sends the form again, then finds the existing application.
    """

    applicant = forms.CharField(
        label="Your name",
        max_length=80,
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )
    amount = forms.IntegerField(
        label="Amount in euro",
        min_value=500,
        max_value=1_000_000,
        help_text="Whole euro, from 500 to 1,000,000.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric", "step": 1}),
    )
    key = forms.CharField(
        required=False, min_length=21, max_length=21, widget=forms.HiddenInput
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, label_suffix="", **kwargs)
        self.fields["key"].initial = generate

    def event(self):
        """Return the first event of the new application's stream."""
        data = self.cleaned_data
        event = {
            "type": "A_SUBMITTED",
            "payload": {
                "lifecycle": "COMPLETE",
                "amountRequested": data["amount"],
                "applicant": data["applicant"],
            },
        }
        return event | ({"id": data["key"]} if data["key"] else {})
