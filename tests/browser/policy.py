"""The content security policy that every page has to obey."""

POLICY = "default-src 'self'"


def only_own_sources(get_response):
    def answer(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return answer
