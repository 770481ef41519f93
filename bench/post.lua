-- The load for wrk: one POST, again and again, with the body in the file that BODY names.
wrk.method = "POST"
wrk.body = assert(io.open(os.getenv("BODY"), "rb")):read("*a")
wrk.headers["Content-Type"] = "application/json"
