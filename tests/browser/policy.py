"""The content security policy under which every page has to work."""

POLICY = "default-src 'self'"


def only_own_sources(get_response):
    def answer(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return answer
