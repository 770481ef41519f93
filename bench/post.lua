-- The load for wrk: the same POST repeatedly, with the body from the file named by BODY.
wrk.method = "POST"
wrk.body = assert(io.open(os.getenv("BODY"), "rb")):read("*a")
wrk.headers["Content-Type"] = "application/json"
