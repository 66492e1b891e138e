-- Lmod modulefile: put it at .../modulefiles/cvx/VERSION.lua, with the source tree, built, at BASE/VERSION.
-- `module load cvx` then gives cvx, cvx-rank, cvx-coordinator and, as $CVX_HOME/slurm/, the batch scripts.
help([[
cvx makes videos with CogVideoX on many ranks.
    sbatch -N 2 -n 8 $CVX_HOME/slurm/generate.sh --model DIR --prompt TEXT --output FILE
]])
whatis("Name: cvx")
whatis("Version: " .. myModuleVersion())
whatis("Description: distributed video generation with CogVideoX")

local base = "/apps/cvx"
local home = pathJoin(base, myModuleVersion())

-- what it was built with, under the site's names
depends_on("openmpi")

setenv("CVX_HOME", home)
prepend_path("PATH", pathJoin(home, "build"))
